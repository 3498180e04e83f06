"""What follows from an error that PostgreSQL reports."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg
import pytest

from sanic_app.errors import DiskFull, StoreBusy, StoreFailed
from sanic_app.store.isolation import WriteFailed
from sanic_app.store.postgres.failures import Lost, failure
from sanic_app.store.postgres.outcome import warned
from tests.nodes import Queue


@pytest.mark.parametrize(
    ("code", "severity", "kind"),
    [
        ("53100", "ERROR", DiskFull),
        ("53100", "PANIC", Lost),
        ("53100", "FATAL", Lost),
        ("53300", "FATAL", Lost),
        ("53200", "ERROR", Lost),
        ("25006", "ERROR", Lost),
        ("25P03", "FATAL", Lost),
        ("57014", "ERROR", StoreBusy),
        ("57P01", "FATAL", Lost),
        ("57P03", "FATAL", Lost),
        ("40001", "ERROR", StoreBusy),
        ("40P01", "ERROR", StoreBusy),
        ("54000", "ERROR", StoreBusy),
        ("55P03", "ERROR", StoreBusy),
        ("72000", "ERROR", StoreBusy),
        ("08006", "FATAL", Lost),
        ("XX001", "ERROR", StoreFailed),
        ("XX002", "ERROR", StoreFailed),
        ("22012", "ERROR", StoreFailed),
        ("22003", "ERROR", WriteFailed),
        ("23505", "ERROR", WriteFailed),
        ("42P01", "ERROR", StoreFailed),
        ("42501", "ERROR", StoreFailed),
    ],
)
def test_what_an_error_means(queue: Queue, code: str, severity: str, kind: type[Exception]) -> None:
    found = failure(raised(queue, code, severity))
    assert type(found) is kind
    # Else there is nothing more to say.
    assert "on purpose" in str(found) or code in ("53100", "22012")


def test_that_transaction_ids_come_to_an_end_leaves_no_commit_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that has 40 million of them left warns in each commit."""
    connection: Any = psycopg.Connection(psycopg.pq.PGconn.connect_start(b"host=127.0.0.1"))
    with closing(connection), warned(connection) as found:
        (note,) = connection._notice_handlers
        for function in ("SyncRepWaitForLSN", "GetNewTransactionId"):
            monkeypatch.setattr(Diagnostic, "source_function", function)
            note(Diagnostic("WARNING"))
    assert found == ["on purpose"]


def raised(queue: Queue, code: str, severity: str) -> psycopg.Error:
    """Return the error as the server's own; a severity that it does not let be raised is set."""
    with psycopg.connect(queue.cluster.url(), autocommit=True) as connection:
        try:
            connection.execute(
                f"DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{code}'; END $$"
            )
        except psycopg.Error as error:
            if severity != "ERROR":
                return Fatal(error, severity)
            return error
    raise AssertionError("nothing was raised")


class Fatal(psycopg.OperationalError):
    """An error with another severity."""

    def __init__(self, error: psycopg.Error, severity: str) -> None:
        super().__init__(str(error))
        self.sqlstate = error.sqlstate
        self._severity = severity

    @property
    def diag(self) -> Any:
        return Diagnostic(self._severity)


class Diagnostic:
    message_primary = "on purpose"
    source_function = ""

    def __init__(self, severity: str) -> None:
        self.severity_nonlocalized = severity
