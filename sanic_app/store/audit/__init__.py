"""Is a store whole? Every rule that its tables have to keep, over all rows, for every engine.

``consistency.py`` looks at the ends of the tables alone, because a start must be quick. This looks
at everything. The queries are in the SQL that all engines understand. They read the tables in the
order of a key, and sort and collect nothing, so that memory does not grow with the store.
"""

from __future__ import annotations

from collections.abc import Callable

from sanic_app.errors import StoreFailed
from sanic_app.store import Figures
from sanic_app.store.audit.figures import numbers, state
from sanic_app.store.audit.order import order
from sanic_app.store.audit.queries import Faults
from sanic_app.store.audit.rows import keys, rows
from sanic_app.store.audit.sums import skipped, wait_sums
from sanic_app.store.snapshot import TABLES, Snapshot


def faults(snapshot: Snapshot, progress: Callable[[int, int], object] | None = None) -> Faults:
    """Return what is wrong with a store, a line for each fault.

    ``progress`` is told how many of how many parts are done.
    """
    report = progress or (lambda _, __: None)
    report(0, len(_PARTS) + 1)
    yield from snapshot.engine_faults()
    if snapshot.outdated:
        return
    try:
        states = list(snapshot.select(f"SELECT {TABLES['state'].listed} FROM state"))
    except StoreFailed as error:
        yield f"state: cannot be read: {error.detail}"
        return
    if len(states) != 1:
        yield f"state: has {len(states)} rows instead of one"
        return
    figures = Figures(*states[0])
    for done, part in enumerate(_PARTS, 1):
        report(done, len(_PARTS) + 1)
        try:
            yield from part(snapshot, figures)
        except StoreFailed as error:
            yield f"{part.__name__}: cannot be read: {error.detail}"
    report(len(_PARTS) + 1, len(_PARTS) + 1)


_PARTS = (state, numbers, rows, order, skipped, wait_sums, keys)
