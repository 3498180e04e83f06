"""Settings: where they come from, which source wins, and what must not start."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sanic_app.command_line import _flags
from sanic_app.errors import SettingsError
from sanic_app.settings import KEYS, Settings, load
from sanic_app.settings.values import PostgresUrl
from sanic_app.task import SECOND, Retention

SAMPLE = """\
HOST_APP: 127.0.0.1
PORT_APP: 8000
LOGGER_LEVEL: INFO
"""
"""The config_app.yaml of the sample that this service grew from."""

SECRET = "very-s3cret"
URL = f"postgresql://me:{SECRET}@db.internal:5433/jobs?sslmode=require"


def given(
    folder: Path,
    file: str | None = None,
    environ: Mapping[str, str] | None = None,
    *flags: str,
) -> Settings:
    """Load from the text of a file, an environment and the flags of a command line."""
    if file is not None:
        (folder / "config_app.yaml").write_text(file, encoding="utf-8")
    return load(_flags(flags), environ or {}, folder)


def refusal(
    folder: Path,
    file: str | None = None,
    environ: Mapping[str, str] | None = None,
    *flags: str,
) -> str:
    """Return the one line with which these settings are refused."""
    with pytest.raises(SettingsError) as error:
        given(folder, file, environ, *flags)
    line = error.value.detail
    assert line.isprintable(), line
    return line


# Sources.


def test_without_any_source_the_defaults_hold(tmp_path: Path) -> None:
    settings = given(tmp_path)
    assert settings == Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.timeout_max_us == 86_400 * SECOND
    assert settings.queue_max == 20_000_000
    assert settings.body_max == 16_384
    assert settings.idempotency_keep_us == 86_400 * SECOND


@pytest.mark.parametrize(
    ("file", "environ", "flags", "port"),
    [
        (None, {}, [], 8000),
        ("PORT: 1", {}, [], 1),
        ("PORT: 1", {"SANIC_APP_PORT": "2"}, [], 2),
        ("PORT: 1", {"SANIC_APP_PORT": "2"}, ["--port", "3"], 3),
        ("PORT: 1", {}, ["-P", "3"], 3),
        (None, {"SANIC_APP_PORT": "2"}, ["-P", "3"], 3),
        # The value of the default, given explicitly, beats what stands below it.
        ("PORT: 1", {}, ["-P", "8000"], 8000),
        ("PORT_APP: 1", {"SANIC_APP_PORT": "2"}, [], 2),
        ("PORT: 1", {"SANIC_APP_PORT": "tcp://10.0.0.1:80"}, [], 1),
        (None, {"SANIC_APP_PORT": "tcp://10.0.0.1:80"}, [], 8000),
        ("PORT: 1", {"PORT": "2", "sanic_app_port": "2", "SANIC_PORT": "2"}, [], 1),
    ],
)
def test_flags_beat_the_environment_which_beats_the_file(
    tmp_path: Path, file: str | None, environ: dict[str, str], flags: list[str], port: int
) -> None:
    assert given(tmp_path, file, environ, *flags).port == port


def test_each_source_fills_what_the_others_leave_open(tmp_path: Path) -> None:
    settings = given(
        tmp_path, "HOST: 127.0.0.2\nQUEUE_MAX: 5", {"SANIC_APP_BODY_MAX": "6"}, "-L", "debug"
    )
    assert settings == Settings(host="127.0.0.2", queue_max=5, body_max=6, logger_level="DEBUG")


VALUES: dict[str, tuple[str, str, object]] = {
    "HOST": ("127.0.0.9", "host", "127.0.0.9"),
    "PORT": ("0", "port", 0),
    "LOGGER_LEVEL": ("warning", "logger_level", "WARNING"),
    "DATABASE": ("sqlite:////var/q.db", "database", Path("/var/q.db")),
    "DATABASE_FILE": ("", "database", PostgresUrl(URL)),
    "DATABASE_SCHEMA": ("orders_2", "database_schema", "orders_2"),
    "STORE_PATIENCE": ("2.5", "store_patience", 2.5),
    "API_TOKEN": (SECRET, "api_token", SECRET.encode()),
    "API_TOKEN_FILE": ("", "api_token", SECRET.encode()),
    "METRICS_TOKEN": (SECRET, "metrics_token", SECRET.encode()),
    "METRICS_TOKEN_FILE": ("", "metrics_token", SECRET.encode()),
    "ALLOW_ANONYMOUS": ("true", "allow_anonymous", True),
    "ALLOWED_HOSTS": ("a.b, C.d:80", "allowed_hosts", frozenset({"a.b", "c.d"})),
    "TIMEOUT_MAX": ("1.5", "timeout_max_us", 1_500_000),
    "QUEUE_MAX": ("7", "queue_max", 7),
    "BODY_MAX": ("8", "body_max", 8),
    "BATCH_MAX": ("9", "batch_max", 9),
    "IDEMPOTENCY_KEEP": ("0", "idempotency_keep_us", 0),
    "HISTORY_KEEP": ("30d", "history_keep", Retention(age=30 * 86_400 * SECOND)),
    "KEEP_ALIVE": ("20", "keep_alive", 20),
    "BASE_PATH": ("/a/queue/", "base_path", "/a/queue"),
    "STOP_DELAY": ("0.5", "stop_delay", 0.5),
    "LISTENERS_MAX": ("6", "listeners_max", 6),
}
"""A value for each key, as text, and what it makes of which field."""


def test_the_table_of_values_has_every_key() -> None:
    assert VALUES.keys() == KEYS.keys()


@pytest.mark.parametrize("source", ["file", "environment"])
@pytest.mark.parametrize("key", KEYS)
def test_each_key_works_from_the_file_and_from_the_environment(
    tmp_path: Path, key: str, source: str
) -> None:
    text, field, value = VALUES[key]
    if key.endswith("_FILE"):
        secret = URL if key == "DATABASE_FILE" else SECRET
        (tmp_path / "secret").write_text(f" {secret}\n", encoding="utf-8")
        text = str(tmp_path / "secret")
    if source == "file":
        settings = given(tmp_path, f"{key}: {text}")
    else:
        settings = given(tmp_path, None, {f"SANIC_APP_{key}": text})
    assert getattr(settings, field) == value


@pytest.mark.parametrize("key", [key for key, spec in KEYS.items() if spec.flag])
def test_each_flag_sets_its_key(tmp_path: Path, key: str) -> None:
    text, field, value = VALUES[key]
    flags = [KEYS[key].flag] if value is True else [KEYS[key].flag, text]
    assert getattr(given(tmp_path, None, None, *flags), field) == value


def test_a_url_of_postgresql_shows_no_password(tmp_path: Path) -> None:
    settings = given(tmp_path, None, {"SANIC_APP_DATABASE": URL})
    assert settings.database == PostgresUrl(URL)
    assert str(settings.database) == "postgresql://db.internal:5433/jobs"
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        (f"me:{SECRET}", "postgresql://db/jobs"),
        # As libpq, which ends user and password at the @ alone.
        (f"me:{SECRET}?{SECRET}#{SECRET}", "postgresql://db/jobs"),
        (f"me:{SECRET}/{SECRET}", ""),
        (f"me:{SECRET}/{SECRET}?{SECRET}", ""),
        (f"me:{SECRET}@{SECRET}", ""),
    ],
)
def test_no_part_of_a_password_is_shown_whatever_is_in_it(
    tmp_path: Path, user: str, shown: str
) -> None:
    environ = {"SANIC_APP_DATABASE": f"postgresql://{user}@db/jobs"}
    if shown:
        assert str(given(tmp_path, None, environ).database) == shown
    else:
        line = refusal(tmp_path, None, environ)
        assert "with %2F and %40 for / and @ in a password" in line
        assert SECRET not in line


def test_a_url_may_name_the_schema(tmp_path: Path) -> None:
    for query, left in (
        ("schema=orders", ""),
        ("sslmode=require&schema=orders", "?sslmode=require"),
        ("schema=orders&application_name=a%26b@c", "?application_name=a%26b@c"),
    ):
        url = f"postgresql://me@db,[::1]:5433/jobs?{query}"
        settings = given(tmp_path, None, {"SANIC_APP_DATABASE": url})
        assert settings.database == PostgresUrl(
            f"postgresql://me@db,[::1]:5433/jobs{left}", "orders"
        )
        assert str(settings.database) == "postgresql://db,[::1]:5433/jobs"
    for wrong in ("schema=a&schema=b", "schema=A", "schema=", "schema=pg_x"):
        environ = {"SANIC_APP_DATABASE": f"postgresql://db/jobs?{wrong}"}
        assert "must" in refusal(tmp_path, None, environ)


def test_the_database_is_given_in_one_way(tmp_path: Path) -> None:
    environ = {"SANIC_APP_DATABASE": URL, "SANIC_APP_DATABASE_FILE": str(tmp_path / "url")}
    (tmp_path / "url").write_text(URL, encoding="utf-8")
    line = refusal(tmp_path, None, environ)
    assert line.endswith("give either DATABASE or DATABASE_FILE, not both")
    assert SECRET not in line


# The file.


def test_the_file_of_the_sample_works_unchanged(tmp_path: Path) -> None:
    assert given(tmp_path, SAMPLE) == Settings()
    changed = SAMPLE.replace("127.0.0.1", "127.0.0.3").replace("8000", "80")
    settings = given(tmp_path, changed)
    assert (settings.host, settings.port) == ("127.0.0.3", 80)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null"])
def test_an_empty_file_changes_nothing(tmp_path: Path, text: str) -> None:
    assert given(tmp_path, text) == Settings()


def test_a_named_file_is_read_and_the_one_in_the_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("PORT: 9", encoding="utf-8")
    settings = given(tmp_path, "HOST: 127.0.0.2", None, "-C", str(tmp_path / "other.yaml"))
    assert settings == Settings(port=9)


def test_a_named_file_has_to_be_there(tmp_path: Path) -> None:
    path = str(tmp_path / "missing.yaml")
    assert refusal(tmp_path, None, None, "--config", path) == f"file {path}: not found"


def test_a_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config_app.yaml").mkdir()
    assert refusal(tmp_path).endswith("config_app.yaml: Is a directory")


@pytest.mark.parametrize(
    "text",
    [
        "a: b: c",
        "[",
        "{",
        "\t",
        "\0",
        "--- 1\n--- 2",
        "? [a]\n: 1",
        "!!python/object:os.system x",
        "%YAML 9\n---\n",
        # What the library's conversions raise is no traceback either.
        "PORT: 2001-99-99",
        "PORT: !!bool x",
        'PORT: !!int ""',
        "PORT: !!timestamp x",
        f"PORT: {'9' * 5_000}",
        "[" * 5_000,
    ],
    ids=lambda text: text[:20].encode("unicode_escape").decode(),
)
def test_a_file_that_is_not_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config_app.yaml"
    assert refusal(tmp_path, text) == f"file {path}: is not valid YAML"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("PORT: 010000", "YAML reads 010000 as 4096"),
        ("PORT: -010", "YAML reads -010 as -8"),
        ("PORT: 0x1F90", "YAML reads 0x1F90 as 8080"),
        ("PORT: 0b11", "YAML reads 0b11 as 3"),
        ("PORT: 8_080", "YAML reads 8_080 as 8080"),
        ("PORT: 00", "YAML reads 00 as 0"),
        ('PORT: !!int "010"', "YAML reads 010 as 8"),
        ("HISTORY_KEEP: 0100", "YAML reads 0100 as 64"),
        ("HISTORY_KEEP: 1:30", "YAML reads 1:30 as 90"),
        ("TIMEOUT_MAX: 1:30.5", "YAML reads 1:30.5 as 90.5"),
        ("TIMEOUT_MAX: 1_000.5", "YAML reads 1_000.5 as 1000.5"),
        ("IDEMPOTENCY_KEEP: 24:00:00", "YAML reads 24:00:00 as 86400"),
        ("API_TOKEN: 2026-11-25", "YAML reads 2026-11-25 as 2026-11-25"),
        ("ALLOWED_HOSTS: [a.b, 12:30]", "YAML reads 12:30 as 750"),
        ("HOST: no", "HOST: YAML reads no as false"),
        ("DATABASE: On", "DATABASE: YAML reads On as true"),
        ("PORT: 1\nHOST: a\n\nPORT: 1", "PORT is given twice, first in line 2"),
        ("PORT: 1\nPORT: 1", "PORT is given twice, first in line 2"),
    ],
)
def test_what_yaml_reads_otherwise_than_a_person_is_refused_with_its_line(
    tmp_path: Path, text: str, says: str
) -> None:
    line = text.count("\n") + 2
    path = tmp_path / "config_app.yaml"
    assert refusal(tmp_path, f"# a comment\n{text}").startswith(f"file {path}, line {line}: {says}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("+90", 90), ("0", 0), ("1.5", 1.5), (".5", 0.5), ("1.5e+2", 150), ("1e2", 100)],
)
def test_plain_numbers_are_read_as_they_are_written(
    tmp_path: Path, text: str, seconds: float
) -> None:
    assert given(tmp_path, f"STOP_DELAY: {text}").stop_delay == seconds


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config_app.yaml").write_bytes(b"HOST: \xff")
    assert refusal(tmp_path).endswith("config_app.yaml: is not valid YAML")


@pytest.mark.parametrize("text", ["[]", "- PORT: 1", "PORT", "1"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text).endswith("config_app.yaml: must hold keys and values")


@pytest.mark.parametrize("key", ["POTR", "port", "SANIC_APP_PORT", "1", "CONFIG", '"a\\nb"'])
def test_an_unknown_key_in_the_file_is_refused(tmp_path: Path, key: str) -> None:
    line = refusal(tmp_path, f"{key}: 1")
    assert line.startswith(f"file {tmp_path / 'config_app.yaml'}, line 1: unknown key ")


@pytest.mark.parametrize("key", ["HOST", "PORT"])
def test_a_key_and_its_alias_together_are_refused(tmp_path: Path, key: str) -> None:
    line = refusal(tmp_path, f"{key}: 1\n{key}_APP: 1")
    assert line.endswith(f"config_app.yaml, line 2: {key} is given twice")


def test_the_aliases_are_for_the_file_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert given(tmp_path, None, {"SANIC_APP_PORT_APP": "1"}) == Settings()
    assert "SANIC_APP_PORT_APP" in caplog.text


# The environment.


def test_unknown_variables_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {
        "SANIC_APP_SERVICE_HOST": "10.0.0.1",
        "SANIC_APP_PORT_80_TCP": "tcp://10.0.0.1:80",
        "SANIC_APP_PORT": "tcp://10.0.0.1:80",
        "SANIC_OTHER": "x",
        "PATH": "x",
    }
    with caplog.at_level(logging.DEBUG):
        assert given(tmp_path, None, environ) == Settings()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "ignored unknown environment variables: SANIC_APP_PORT_80_TCP, SANIC_APP_SERVICE_HOST"
    )


def test_known_variables_are_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given(tmp_path, None, {"SANIC_APP_PORT": "80", "OTHER": "x"})
    assert not caplog.records


# Bad values.

BAD: dict[str, list[str]] = {
    "HOST": ["", " ", "a\nb", "a\0b", "[::1]", "[::1]:80"],
    "PORT": ["", "x", "-1", "65536", "1.0", "1e3", "0x10", "9" * 19, "\u0661", "udp://x"],
    "LOGGER_LEVEL": ["", "x", "10", "NOTSET", "INFO DEBUG"],
    "DATABASE": [
        "",
        "a\0b",
        "a\nb",
        ":memory:",
        "file:x?mode=memory",
        "sqlite://",
        "sqlite:///",
        "sqlite://host/x.db",
        "sqlite:///x.db?mode=ro",
        "sqlite:///x.db#y",
        "mysql://x/y",
        "://x",
        "sqlite:///:memory:",
        "sqlite:///%3Amemory%3A",
        "sqlite:///file:x",
        "sqlite:queue.db",
        "host=db dbname=jobs",
        "service=jobs",
        "host=/run/postgresql user=me",
        f"password = '{SECRET}/x' host=/run/postgresql",
        "sqlite:/var/queue.db",
        "postgresql:jobs",
        "postgres:jobs",
    ],
    "DATABASE_FILE": ["", "/nowhere/at/all", "a\0b"],
    "DATABASE_SCHEMA": ["", "A", "1a", "pg_x", "a-b", 'a"b', "a" * 64, "é"],
    "STORE_PATIENCE": ["", "-1", "x", "3601", "nan", "inf"],
    "API_TOKEN": ["", " ", "a b", "a\tb", "é", "a\nb", "\x7f"],
    "API_TOKEN_FILE": ["", "/nowhere/at/all", "a\0b"],
    "METRICS_TOKEN": ["", "a b"],
    "METRICS_TOKEN_FILE": ["", "/nowhere/at/all"],
    "ALLOW_ANONYMOUS": ["", "x", "2", "truefalse"],
    "ALLOWED_HOSTS": [
        "",
        ",",
        "a,,b",
        "a,",
        "*",
        "http://a",
        "a b",
        "::1",
        "[::1",
        "[a]",
        "a\n,b",
        "é",
    ],
    "TIMEOUT_MAX": ["", "x", "-1", "31536000.1", "nan", "inf", "-inf", "1_0", "1 0", "\u0661"],
    "QUEUE_MAX": ["", "0", "-1", "1.5", "x", "9" * 19],
    "BODY_MAX": ["", "0", "-1", "x", "1073741825"],
    "BATCH_MAX": ["", "0", "-1", "x", "1000001"],
    "IDEMPOTENCY_KEEP": ["", "-1", "nan", "31536001", "x", "1e99999999999999999999"],
    "HISTORY_KEEP": ["", "0", "-1", "1.5", "all", "30 d", "d", "3w", "0d", "1" * 10, "106751992d"],
    "KEEP_ALIVE": ["", "0", "-1", "3601", "7.5", "x"],
    "BASE_PATH": ["", "queue", "//x", "//queue", "/a//b", "/queue?x", "/a b", "/a>", "http://x/y"],
    "STOP_DELAY": ["", "-1", "3601", "x", "nan"],
    "LISTENERS_MAX": ["", "0", "-1", "1.5", "x", "1000001"],
}


def test_the_table_of_bad_values_has_every_key() -> None:
    assert BAD.keys() == KEYS.keys()


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in BAD.items() for value in values]
)
def test_a_bad_value_is_refused_in_one_line_that_names_its_source(
    tmp_path: Path, key: str, value: str
) -> None:
    name = f"SANIC_APP_{key}"
    assert refusal(tmp_path, None, {name: value}).startswith(f"environment: {name} ")
    quoted = value.encode("unicode_escape").decode().replace('"', '\\"')
    line = refusal(tmp_path, f'{key}: "{quoted}"')
    assert line.startswith(f"file {tmp_path / 'config_app.yaml'}, line 1: {key}")
    if (flag := KEYS[key].flag) and key != "ALLOW_ANONYMOUS":
        (tmp_path / "config_app.yaml").unlink()
        assert refusal(tmp_path, None, None, f"{flag}={value}").startswith(f"flag {flag} ")


def test_a_bad_value_is_refused_though_another_source_overrides_it(tmp_path: Path) -> None:
    line = refusal(tmp_path, "PORT: x", {"SANIC_APP_PORT": "2"}, "--port=3")
    assert line.startswith(f"file {tmp_path / 'config_app.yaml'}, line 1: PORT ")
    line = refusal(tmp_path, "PORT: 1", {"SANIC_APP_PORT": "x"}, "--port=3")
    assert line.startswith("environment: SANIC_APP_PORT ")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("HOST", "1"),
        ("HOST", ""),
        ("HOST", "[a]"),
        ("PORT", "true"),
        ("PORT", "80.0"),
        ("PORT", "[80]"),
        ("PORT", "null"),
        ("LOGGER_LEVEL", "20"),
        ("DATABASE", "5"),
        ("API_TOKEN", "123456"),
        ("API_TOKEN", "null"),
        ("ALLOW_ANONYMOUS", "1"),
        ("ALLOWED_HOSTS", "[a, 1]"),
        ("ALLOWED_HOSTS", "{a: b}"),
        ("TIMEOUT_MAX", "true"),
        ("TIMEOUT_MAX", ".nan"),
        ("TIMEOUT_MAX", ".inf"),
        ("TIMEOUT_MAX", "[1]"),
        ("QUEUE_MAX", "1e3"),
        ("QUEUE_MAX", "1.0"),
    ],
)
def test_a_value_of_the_wrong_type_in_the_file_is_refused(
    tmp_path: Path, key: str, text: str
) -> None:
    line = refusal(tmp_path, f"{key}: {text}")
    assert line.startswith(f"file {tmp_path / 'config_app.yaml'}, line 1: {key}")


@pytest.mark.parametrize(
    "flags",
    [["--prot", "1"], ["--por", "1"], ["extra"], ["-P"], ["--allow-anonymous=yes"], ["-X"]],
)
def test_wrong_flags_are_refused_in_one_line(tmp_path: Path, flags: list[str]) -> None:
    assert refusal(tmp_path, None, None, *flags).startswith("flags: ")


def test_no_refusal_shows_a_token(tmp_path: Path) -> None:
    for text in (f"{SECRET} ", f"{SECRET}é", f"{SECRET} x"):
        environ = {"SANIC_APP_API_TOKEN": text, "SANIC_APP_API_TOKEN_FILE": "/nowhere"}
        assert SECRET not in refusal(tmp_path, None, environ)


# Values of their own kinds.


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, True) for word in ("true", "TRUE", "yes", "on", "1", " True ")),
        *((word, False) for word in ("false", "No", "off", "0")),
    ],
)
def test_a_switch_is_written_in_several_ways(tmp_path: Path, text: str, value: bool) -> None:
    settings = given(tmp_path, None, {"SANIC_APP_ALLOW_ANONYMOUS": text})
    assert settings.allow_anonymous is value
    assert given(tmp_path, "ALLOW_ANONYMOUS: yes").allow_anonymous is True


@pytest.mark.parametrize(
    ("key", "text"),
    [("API_TOKEN", "123456"), ("DATABASE", "5"), ("HOST", "1.1"), ("DATABASE_SCHEMA", "1")],
)
def test_a_text_that_yaml_takes_for_a_number_needs_quotes(
    tmp_path: Path, key: str, text: str
) -> None:
    assert refusal(tmp_path, f"{key}: {text}").endswith(f"{key} must be a text: put it in quotes")


def test_a_number_has_the_same_range_in_every_source(tmp_path: Path) -> None:
    environ = {"SANIC_APP_QUEUE_MAX": str(2**62), "SANIC_APP_TIMEOUT_MAX": "0"}
    assert given(tmp_path, None, environ).queue_max == 2**62


def test_the_greatest_age_fits_into_63_bits(tmp_path: Path) -> None:
    kept = given(tmp_path, "HISTORY_KEEP: 106751991d").history_keep
    assert kept is not None
    assert kept.age is not None
    assert kept.age < 2**63


def test_hosts_may_be_addresses_of_ipv6(tmp_path: Path) -> None:
    environ = {"SANIC_APP_ALLOWED_HOSTS": "[FD00::1]:3000, [::1], 10.0.0.1"}
    assert given(tmp_path, None, environ).allowed_hosts == {"[fd00::1]", "[::1]", "10.0.0.1"}


def test_hosts_may_be_a_list_in_the_file(tmp_path: Path) -> None:
    settings = given(tmp_path, "ALLOWED_HOSTS: [A.b, 'c_d:8080']")
    assert settings.allowed_hosts == {"a.b", "c_d"}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("queue.db", "queue.db"),
        ("/var/lib/queue.db", "/var/lib/queue.db"),
        ("sqlite:///queue.db", "queue.db"),
        ("sqlite:///data/queue.db", "data/queue.db"),
        ("sqlite:////data/queue.db", "/data/queue.db"),
        ("sqlite:////a%20b%3F.db", "/a b?.db"),
        ("a b?.db", "a b?.db"),
    ],
)
def test_a_database_is_a_path_or_a_url(tmp_path: Path, text: str, path: str) -> None:
    assert given(tmp_path, None, None, "-D", text).database == Path(path)


# Tokens.


@pytest.mark.parametrize("key", ["API_TOKEN", "METRICS_TOKEN"])
@pytest.mark.parametrize("content", ["", "\n", "a b", "a\nb", "é"])
def test_a_file_without_a_good_token_is_refused(tmp_path: Path, key: str, content: str) -> None:
    token = tmp_path / "token"
    token.write_text(content, encoding="utf-8")
    line = refusal(tmp_path, None, {f"SANIC_APP_{key}_FILE": str(token)})
    assert line.startswith(f"environment: SANIC_APP_{key}_FILE must ")


def test_a_byte_order_mark_before_a_token_is_no_part_of_it(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET, encoding="utf-8-sig")
    settings = given(tmp_path, None, {"SANIC_APP_API_TOKEN_FILE": str(token)})
    assert settings.api_token == SECRET.encode()


def test_a_token_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_bytes(b"\xff\xfe")
    line = refusal(tmp_path, None, {"SANIC_APP_API_TOKEN_FILE": str(token)})
    assert line.startswith("environment: SANIC_APP_API_TOKEN_FILE must name a file")


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    line = refusal(tmp_path, "API_TOKEN_FILE: /nowhere/token")
    assert line.endswith("cannot be read: /nowhere/token: No such file or directory")


@pytest.mark.parametrize("key", ["API_TOKEN", "METRICS_TOKEN"])
def test_a_token_and_a_file_with_one_together_are_refused(tmp_path: Path, key: str) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET, encoding="utf-8")
    both = f"{key}: {SECRET}\n{key}_FILE: {token}"
    assert refusal(tmp_path, both).endswith(f"give either {key} or {key}_FILE, not both")
    # From two sources as well: neither is a hint to leave the other out.
    line = refusal(tmp_path, f"{key}: {SECRET}", {f"SANIC_APP_{key}_FILE": str(token)})
    assert line.endswith(f"give either {key} or {key}_FILE, not both")


# What fits together.


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "localhost"])
def test_loopback_needs_no_token(tmp_path: Path, host: str) -> None:
    assert given(tmp_path, None, None, "-H", host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1"])
def test_any_other_address_needs_a_token_or_the_word(tmp_path: Path, host: str) -> None:
    line = refusal(tmp_path, None, None, "-H", host)
    assert line.startswith(f"flag --host: HOST {host} can be reached from elsewhere: set API_TOKEN")
    assert given(tmp_path, None, None, "-H", host, "--allow-anonymous").host == host
    assert given(tmp_path, None, {"SANIC_APP_API_TOKEN": SECRET}, "-H", host).host == host
    # A token that opens the metrics alone protects nothing else.
    assert refusal(tmp_path, None, {"SANIC_APP_METRICS_TOKEN": SECRET}, "-H", host)


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("no-such-host.invalid", "flag --host: HOST no-such-host.invalid is not known: "),
        ("1.2.3.4.5", "flag --host: HOST 1.2.3.4.5 is not known: "),
        ("a..b", "flag --host: HOST a..b is not known: not a host name"),
        ("a" * 300, f"flag --host: HOST {'a' * 300} is not known: "),
        ("[::1]", "flag --host must be an address without brackets: ::1"),
    ],
)
def test_a_host_without_an_address_is_not_called_reachable(
    tmp_path: Path, host: str, says: str
) -> None:
    line = refusal(tmp_path, None, None, "-H", host)
    assert line.startswith(says)
    assert "reached" not in line


@pytest.mark.parametrize(
    ("host", "says"), [("a..b", "is not known"), ("0.0.0.0", "can be reached from elsewhere")]
)
def test_a_refused_host_is_refused_with_its_source(tmp_path: Path, host: str, says: str) -> None:
    line = refusal(tmp_path, None, {"SANIC_APP_HOST": host})
    assert line.startswith(f"environment: SANIC_APP_HOST: HOST {host} {says}")
    line = refusal(tmp_path, f"PORT: 8000\nHOST_APP: {host}")
    assert f"line 2: HOST_APP: HOST {host} {says}" in line


def test_a_name_with_one_address_that_is_reachable_counts_as_reachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup = socket.getaddrinfo

    def each(name: str, port: None, **named: Any) -> list[Any]:
        return [found for address in name.split("+") for found in lookup(address, port, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", each)
    for name in ("127.0.0.1+192.0.2.1", "192.0.2.1+127.0.0.1", "::1+2001:db8::1"):
        line = refusal(tmp_path, None, None, "-H", name)
        assert line.startswith(f"flag --host: HOST {name} can be reached from elsewhere")
    assert given(tmp_path, None, None, "-H", "127.0.0.1+::1").host == "127.0.0.1+::1"


@pytest.mark.parametrize(
    ("queue_max", "timeout_max", "fits"),
    [
        (20_000_000, "31536000", False),
        (292_471, "31536000", True),
        (292_472, "31536000", False),
        (2**62, "0.000001", True),
        (2**62, "0.000002", False),
        (2**62, "0", True),
    ],
)
def test_the_sum_of_all_waits_fits_into_63_bits(
    tmp_path: Path, queue_max: int, timeout_max: str, fits: bool
) -> None:
    text = f"QUEUE_MAX: {queue_max}\nTIMEOUT_MAX: {timeout_max}"
    if fits:
        assert given(tmp_path, text).queue_max == queue_max
    else:
        assert "TIMEOUT_MAX: QUEUE_MAX times TIMEOUT_MAX must be below" in refusal(tmp_path, text)


def test_settings_cannot_be_changed() -> None:
    settings: Any = Settings()
    with pytest.raises(AttributeError):
        settings.port = 1
