"""The history checker finds nothing in a correct queue and everything that a broken one shows.

A simulated queue, correct by construction, gives histories of several clients; the mutations then
break one promise each.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.proof.checker import Kind, check
from tests.proof.history import (
    Add,
    Added,
    Cancel,
    History,
    Listed,
    Operation,
    Pause,
    ReadQueue,
    ReadResults,
    ReadTask,
    Results,
    Resume,
    Row,
    Seen,
    Snapshot,
)
from tests.simulation import EPOCH, Simulation

seeds = st.integers(0, 2**32)


@settings(deadline=None)
@given(seed=seeds, clients=st.integers(1, 12), steps=st.integers(0, 60))
@example(seed=1, clients=16, steps=300)
@example(seed=1_004_813, clients=5, steps=53)
def test_a_correct_queue_breaks_no_promise(seed: int, clients: int, steps: int) -> None:
    verdict = Simulation(seed, clients=clients, steps=steps).check()
    assert verdict.violations == ()


def test_a_correct_run_with_enough_answers_and_finishes_holds() -> None:
    verdict = Simulation(7, clients=3, steps=200).check(finishes=50)
    assert verdict.holds
    assert verdict.summary.startswith("holds; ")
    assert verdict.counts.done >= 50
    assert min(verdict.counts.cancelled, verdict.counts.refused, verdict.counts.unknown) > 0


@settings(deadline=None)
@given(seed=seeds)
def test_a_history_read_back_from_its_dump_gives_the_same_verdict(seed: int) -> None:
    run = Simulation(seed)
    run.history.faults.append((0.25, 0.5))
    kept = io.StringIO()
    run.history.dump(kept, run.snapshot)
    history, snapshot = History.load(kept.getvalue().splitlines())
    assert snapshot == run.snapshot
    again = io.StringIO()
    history.dump(again, snapshot)
    assert again.getvalue() == kept.getvalue()
    assert check(history, snapshot, finishes=0).summary == run.check().summary


# One promise broken at a time, in any run that has what it takes.


def _pick(run: Simulation, kind: type, suitable: Callable[[Operation], bool]) -> Operation:
    found = [
        each
        for each in run.history.operations
        if isinstance(each.request, kind) and each.answer == "ok" and suitable(each)
    ]
    assume(found)
    return run.random.choice(found)


def _long(length: int) -> Callable[[Operation], bool]:
    return lambda each: isinstance(each.value, Results) and len(each.value.nums) >= length


def _show(operation: Operation, nums: tuple[int, ...]) -> None:
    operation.value = Results(nums)


def _nums(operation: Operation) -> tuple[int, ...]:
    assert isinstance(operation.value, Results)
    return operation.value.nums


def _acknowledged(run: Simulation, least: int = 1) -> tuple[Operation, Added]:
    operation = _pick(
        run, Add, lambda each: isinstance(each.request, Add) and len(each.request.tasks) >= least
    )
    assert isinstance(operation.value, Added)
    return operation, operation.value


def _with_row(run: Simulation, number: int, change: Callable[[Row], Row | None]) -> None:
    tables = [
        tuple(
            changed
            for row in table
            if (changed := change(row) if row.history_num == number else row) is not None
        )
        for table in (run.snapshot.queue, run.snapshot.history)
    ]
    run.snapshot = Snapshot(*tables)


def _done(run: Simulation, least: int = 1) -> list[Row]:
    done = [row for row in run.snapshot.history if row.outcome == "done"]
    assume(len(done) >= least)
    return done


def drop_an_acknowledged_row(run: Simulation) -> None:
    _, added = _acknowledged(run)
    _with_row(run, added.last, lambda _: None)


def drop_one_from_a_result_list(run: Simulation) -> None:
    read = _pick(run, ReadResults, _long(2))
    _show(read, _nums(read)[:-2] + _nums(read)[-1:])


def double_one_in_a_result_list(run: Simulation) -> None:
    read = _pick(run, ReadResults, _long(1))
    _show(read, _nums(read) + _nums(read)[-1:])


def double_a_row(run: Simulation) -> None:
    row = _done(run)[-1]
    run.snapshot = replace(run.snapshot, history=(*run.snapshot.history, row))


def store_a_task_under_two_numbers(run: Simulation) -> None:
    row = run.random.choice(_done(run))
    again = Row(run.service.last + 1, row.num, row.timeout, EPOCH * 2)
    run.snapshot = replace(run.snapshot, queue=(*run.snapshot.queue, again))


def acknowledge_two_numbers_for_one_key(run: Simulation) -> None:
    operation = _pick(run, Add, lambda _: True)
    assert isinstance(operation.request, Add)
    assume(operation.request.key is not None)
    other = Added(run.service.last + 1, run.service.last + len(operation.request.tasks))
    run.history.observe("retry", operation.request, other, 1e6, 1e6 + 1)


def swap_two_in_a_result_list(run: Simulation) -> None:
    read = _pick(run, ReadResults, _long(2))
    _show(read, _nums(read)[:-2] + _nums(read)[:-3:-1])


def swap_two_history_numbers(run: Simulation) -> None:
    adds = [each for each in run.history.operations if isinstance(each.value, Added)]
    pairs = [
        (before, after)
        for before, after in itertools.product(adds, adds)
        if before.completed < after.invoked
        and isinstance(before.request, Add)
        and isinstance(after.request, Add)
        and len(before.request.tasks) == len(after.request.tasks) == 1
        and before.request.key is after.request.key is None
    ]
    assume(pairs)
    before, after = run.random.choice(pairs)
    assert isinstance(before.value, Added)
    assert isinstance(after.value, Added)
    before.value, after.value = replace(after.value), replace(before.value)
    low, high = after.value.first, before.value.first
    rows = {r.history_num: r for r in run.snapshot.queue + run.snapshot.history}
    first, second = rows[low], rows[high]
    _with_row(run, low, lambda r: replace(r, num=second.num, timeout=second.timeout))
    _with_row(run, high, lambda r: replace(r, num=first.num, timeout=first.timeout))


def swap_two_finishes(run: Simulation) -> None:
    first, second = _done(run, 2)[-2:]
    _with_row(run, first.history_num, lambda r: replace(r, finish_num=second.finish_num))
    _with_row(run, second.history_num, lambda r: replace(r, finish_num=first.finish_num))


def let_creation_go_back(run: Simulation) -> None:
    row = run.random.choice(_done(run))
    assume(row.history_num > 1)
    _with_row(run, row.history_num, lambda r: replace(r, created_at=0))


def finish_early_by_its_stamps(run: Simulation) -> None:
    row = run.random.choice([row for row in _done(run) if row.timeout] or [None])
    assume(row is not None)
    assert row is not None
    early = (row.started_at or 0) + row.timeout - 1
    _with_row(run, row.history_num, lambda r: replace(r, finished_at=early))


def finish_early_for_a_reader(run: Simulation) -> None:
    done = _done(run)
    place_of = {row.history_num: place for place, row in enumerate(done)}

    def waits(add: Operation) -> bool:
        alone = isinstance(add.request, Add) and add.request.key is None
        place = place_of.get(add.value.first) if isinstance(add.value, Added) else None
        return alone and place is not None and done[place].timeout > 1

    add = _pick(run, Add, waits)
    assert isinstance(add.value, Added)
    place = place_of[add.value.first]
    shown = Results(tuple(row.num for row in done[: place + 1]))
    hasty = add.invoked + (done[place].timeout - 1) / 1e6
    run.history.observe("hasty", ReadResults(), shown, hasty, hasty)


def show_in_both_to_a_reader(run: Simulation) -> None:
    read = _pick(run, ReadResults, _long(1))
    num = _nums(read)[-1]
    row = next(row for row in _done(run) if row.num == num)
    entry = (row.history_num, row.num, row.timeout / 1e6)
    run.history.observe(read.client, ReadQueue(), (entry,), read.completed + 1e-6, math.inf)


def show_a_done_task_as_waiting(run: Simulation) -> None:
    read = _pick(run, ReadTask, lambda e: isinstance(e.value, Seen) and e.value.state == "done")
    assert isinstance(read.value, Seen)
    before = replace(read.value, state="waiting", finished_at=None)
    run.history.observe("other", read.request, before, read.completed + 1e-6, math.inf)


def show_in_neither_to_a_reader(run: Simulation) -> None:
    read = _pick(run, ReadResults, lambda e: e.request == ReadResults())
    done = _done(run)
    assume(len(_nums(read)) < len(done))
    number = done[len(_nums(read))].history_num
    assume(
        any(
            add.completed < read.invoked - 1e-6 and add.value.first <= number <= add.value.last
            for add in run.history.operations
            if isinstance(add.value, Added)
        )
    )
    before = math.nextafter(read.invoked, 0)
    run.history.observe(read.client, ReadQueue(), (), before, before)


def keep_in_both_tables(run: Simulation) -> None:
    row = run.random.choice(_done(run))
    run.snapshot = replace(run.snapshot, queue=(row, *run.snapshot.queue))


def store_a_refused_add(run: Simulation) -> None:
    operation = _pick(run, Add, lambda _: True)
    same = [each for each in run.history.operations if each.request == operation.request]
    for each in same:
        each.answer, each.value = "refused", None


def store_another_num(run: Simulation) -> None:
    _, added = _acknowledged(run)
    _with_row(run, added.first, lambda r: replace(r, num=r.num + 10**9))


def store_another_timeout(run: Simulation) -> None:
    _, added = _acknowledged(run)
    _with_row(run, added.first, lambda r: replace(r, timeout=r.timeout + 2))


def show_another_timeout_in_the_queue(run: Simulation) -> None:
    read = _pick(run, ReadQueue, lambda each: bool(each.value))
    assert isinstance(read.value, tuple)
    (number, num, timeout), *rest = read.value
    read.value = ((number, num, timeout + 1), *rest)


def _listed(run: Simulation, length: int) -> tuple[Operation, tuple[Listed, ...]]:
    read = _pick(run, ReadQueue, lambda e: isinstance(e.value, tuple) and len(e.value) >= length)
    assert isinstance(read.value, tuple)
    return read, read.value


def double_one_in_the_queue(run: Simulation) -> None:
    read, entries = _listed(run, 1)
    read.value = (*entries, entries[-1])


def swap_two_in_the_queue(run: Simulation) -> None:
    read, entries = _listed(run, 2)
    read.value = (entries[1], entries[0], *entries[2:])


def show_what_nobody_asked_for_in_the_queue(run: Simulation) -> None:
    read, entries = _listed(run, 0)
    read.value = (*entries, (run.service.last + 1, 10**12, 1.0))


def show_what_nobody_asked_for_in_the_results(run: Simulation) -> None:
    read = _pick(run, ReadResults, lambda each: each.request == ReadResults())
    _show(read, (*_nums(read), 10**12))


def show_a_task_under_another_number(run: Simulation) -> None:
    row = run.random.choice(_done(run))
    seen = Seen("done", row.num, row.timeout / 1e6)
    run.history.observe("other", ReadTask(run.service.last + 1), seen, 1e6, 1e6)


def lose_what_only_a_reader_knew(run: Simulation) -> None:
    request = Add(((10**12, 1.0),))
    run.history.unknown(run.history.invoke("other", request))
    entry = (run.service.last + 1, 10**12, 1.0)
    run.history.observe("reader", ReadQueue(), (entry,), 1e6, 1e6)


def store_what_nobody_asked_for(run: Simulation) -> None:
    row = Row(run.service.last + 1, 10**12, 1_000_000, EPOCH * 2)
    run.snapshot = replace(run.snapshot, queue=(*run.snapshot.queue, row))


def show_a_task_before_it_is_sent(run: Simulation) -> None:
    operation, added = _acknowledged(run)
    assert isinstance(operation.request, Add)
    assume(operation.request.key is None)
    num, timeout = operation.request.tasks[0]
    early = operation.invoked - 1e-6
    run.history.observe("seer", ReadQueue(), ((added.first, num, timeout),), early, early)


def _cancelled_alone(run: Simulation) -> tuple[Operation, Row]:
    operation = _pick(run, Cancel, lambda each: each.value == 1)
    assert isinstance(operation.request, Cancel)
    number = operation.request.first
    assume(number == operation.request.last)
    return operation, next(row for row in run.snapshot.history if row.history_num == number)


def finish_a_cancelled_task(run: Simulation) -> None:
    _, row = _cancelled_alone(run)
    end = row.created_at + row.timeout
    _with_row(
        run,
        row.history_num,
        lambda r: replace(r, outcome="done", started_at=row.created_at, finished_at=end),
    )


def show_a_cancelled_task_as_done(run: Simulation) -> None:
    cancelled = [r for r in run.snapshot.history if r.outcome == "cancelled"]
    assume(cancelled)
    read = _pick(run, ReadResults, lambda each: each.request == ReadResults())
    _show(read, (*_nums(read), run.random.choice(cancelled).num))


def queue_a_cancelled_task_again(run: Simulation) -> None:
    operation, row = _cancelled_alone(run)
    entry = (row.history_num, row.num, row.timeout / 1e6)
    run.history.observe("other", ReadQueue(), (entry,), operation.completed + 1e-6, math.inf)


def lose_a_cancel_for_one_reader(run: Simulation) -> None:
    row = run.random.choice(_done(run))
    seen = Seen("cancelled", row.num, row.timeout / 1e6)
    run.history.observe("other", ReadTask(row.history_num), seen, 1e6, 1e6)


def cancel_unasked(run: Simulation) -> None:
    for each in run.history.operations:
        if isinstance(each.request, Cancel):
            each.answer, each.value = "refused", None
    assume(any(row.outcome == "cancelled" for row in run.snapshot.history))


def acknowledge_one_cancel_twice(run: Simulation) -> None:
    operation, _ = _cancelled_alone(run)
    run.history.observe("other", operation.request, 1, 1e6, 1e6 + 1)


def count_too_many_cancels(run: Simulation) -> None:
    operation = _pick(run, Cancel, lambda _: True)
    operation.request, operation.value = Cancel(1, 10**9), len(run.snapshot.history) + 1


def count_too_few_in_a_batch(run: Simulation) -> None:
    operation, added = _acknowledged(run)
    operation.value = replace(added, last=added.last - 1)


def start_two_tasks(run: Simulation) -> None:
    assume(len(run.snapshot.queue) > 1)
    row = run.snapshot.queue[-1]
    _with_row(run, row.history_num, lambda r: replace(r, started_at=EPOCH * 2))


def leave_a_gap_in_the_history_numbers(run: Simulation) -> None:
    last = run.service.last
    assume(last > 0)
    _with_row(run, last, lambda r: replace(r, history_num=last + 1))


def leave_a_gap_in_the_finish_numbers(run: Simulation) -> None:
    row = run.random.choice(_done(run))
    _with_row(run, row.history_num, lambda r: replace(r, finish_num=10**6))


def shrink_the_result_list(run: Simulation) -> None:
    read = _pick(run, ReadResults, lambda each: _long(1)(each) and each.request == ReadResults())
    shorter = Results(_nums(read)[:-1])
    run.history.observe("other", ReadResults(), shorter, read.completed + 1e-6, math.inf)


def overlap_two_waits(run: Simulation) -> None:
    started = [row for row in run.snapshot.history if row.started_at is not None]
    pairs = [
        (before, after)
        for before, after in itertools.pairwise(started)
        if (before.finished_at or 0) > after.created_at and after.outcome == "done"
    ]
    assume(pairs)
    before, after = run.random.choice(pairs)
    early = (before.finished_at or 0) - 1
    _with_row(run, after.history_num, lambda r: replace(r, started_at=early))


def tear_a_batch(run: Simulation) -> None:
    operation, added = _acknowledged(run, least=2)
    _with_row(run, added.last, lambda _: None)
    for each in run.history.operations:
        if each.request == operation.request:
            each.answer, each.value = "unknown", None


def lose_a_task_for_one_reader(run: Simulation) -> None:
    operation, added = _acknowledged(run)
    after = operation.completed + 1e-6
    run.history.observe("other", ReadTask(added.first), None, after, after)


MUTATIONS: dict[Callable[[Simulation], None], Kind] = {
    drop_an_acknowledged_row: Kind.LOST,
    drop_one_from_a_result_list: Kind.LOST,
    lose_a_task_for_one_reader: Kind.LOST,
    double_one_in_a_result_list: Kind.DOUBLED,
    double_a_row: Kind.DOUBLED,
    store_a_task_under_two_numbers: Kind.DOUBLED,
    acknowledge_two_numbers_for_one_key: Kind.DOUBLED,
    swap_two_in_a_result_list: Kind.REORDERED,
    swap_two_history_numbers: Kind.REORDERED,
    swap_two_finishes: Kind.REORDERED,
    let_creation_go_back: Kind.REORDERED,
    finish_early_by_its_stamps: Kind.EARLY,
    finish_early_for_a_reader: Kind.EARLY,
    show_in_both_to_a_reader: Kind.IN_BOTH,
    show_a_done_task_as_waiting: Kind.IN_BOTH,
    keep_in_both_tables: Kind.IN_BOTH,
    show_in_neither_to_a_reader: Kind.IN_NEITHER,
    store_a_refused_add: Kind.REFUSED_BUT_PRESENT,
    store_another_num: Kind.ALTERED,
    store_another_timeout: Kind.ALTERED,
    show_another_timeout_in_the_queue: Kind.ALTERED,
    double_one_in_the_queue: Kind.DOUBLED,
    swap_two_in_the_queue: Kind.REORDERED,
    show_what_nobody_asked_for_in_the_queue: Kind.INVENTED,
    show_what_nobody_asked_for_in_the_results: Kind.INVENTED,
    show_a_task_under_another_number: Kind.ALTERED,
    lose_what_only_a_reader_knew: Kind.LOST,
    store_what_nobody_asked_for: Kind.INVENTED,
    show_a_task_before_it_is_sent: Kind.INVENTED,
    finish_a_cancelled_task: Kind.REVIVED,
    show_a_cancelled_task_as_done: Kind.REVIVED,
    queue_a_cancelled_task_again: Kind.REVIVED,
    cancel_unasked: Kind.CANCELLED_UNASKED,
    lose_a_cancel_for_one_reader: Kind.REVIVED,
    acknowledge_one_cancel_twice: Kind.DOUBLED,
    count_too_many_cancels: Kind.MISCOUNTED,
    count_too_few_in_a_batch: Kind.MISCOUNTED,
    leave_a_gap_in_the_history_numbers: Kind.GAP,
    leave_a_gap_in_the_finish_numbers: Kind.GAP,
    shrink_the_result_list: Kind.SHRUNK,
    overlap_two_waits: Kind.OVERLAP,
    start_two_tasks: Kind.OVERLAP,
    tear_a_batch: Kind.TORN,
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
# What a mutation needs is not in every run; enough runs have it.
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.filter_too_much])
@given(seed=seeds)
def test_a_broken_promise_is_caught_and_called_by_its_name(
    mutation: Callable[[Simulation], None], seed: int
) -> None:
    run = Simulation(seed)
    mutation(run)
    verdict = run.check()
    assert MUTATIONS[mutation] in {violation.kind for violation in verdict.violations}
    assert not verdict.holds
    assert verdict.summary.startswith("broken: ")


# What a random run rarely has, by hand: one client, times in whole seconds.


def _one_by_one(count: int, timeout: float = 1.0) -> tuple[History, Snapshot]:
    """`count` adds, each answered in the second in which it was sent, worked through in order."""
    history = History()
    rows = []
    free = 0.0
    for number in range(1, count + 1):
        sent = float(number)
        request, added = Add(((number, timeout),)), Added(number, number)
        history.observe("client", request, added, sent, sent + 0.5)
        free = max(free, sent) + timeout
        wait, start = round(timeout * 1e6), round((free - timeout) * 1e6)
        row = Row(number, number, wait, round(sent * 1e6), start, start + wait, number, "done")
        rows.append(row)
    return history, Snapshot((), tuple(rows))


def _kinds(history: History, snapshot: Snapshot, epsilon: float = 0.0) -> list[Kind]:
    verdict = check(history, snapshot, finishes=0, epsilon=epsilon)
    return [violation.kind for violation in verdict.violations]


def _read_at(history: History, at: float, *nums: int) -> None:
    history.observe("reader", ReadResults(), Results(nums), at, at)


def test_waits_add_up_whatever_each_alone_would_allow() -> None:
    history, snapshot = _one_by_one(3, timeout=10.0)
    _read_at(history, 31.0, 1, 2, 3)
    assert _kinds(history, snapshot) == []
    history.operations.pop()
    # The last was sent 27.9 s ago and waits but 10; behind the others it needs until 31.
    _read_at(history, 30.9, 1, 2, 3)
    assert _kinds(history, snapshot) == [Kind.EARLY]
    assert _kinds(history, snapshot, epsilon=0.11) == []


def test_a_wait_begins_when_the_one_before_was_still_seen_undone() -> None:
    history, snapshot = _one_by_one(2, timeout=10.0)
    _read_at(history, 15.0)
    _read_at(history, 24.0, 1, 2)
    assert _kinds(history, snapshot) == [Kind.EARLY]


def test_a_wait_begins_after_the_task_was_last_seen_queued() -> None:
    history, snapshot = _one_by_one(1, timeout=10.0)
    history.observe("reader", ReadTask(1), Seen("queued", 1, 10.0), 5.0, 5.1)
    _read_at(history, 14.0, 1)
    assert _kinds(history, snapshot) == [Kind.EARLY]


@pytest.mark.parametrize(
    ("resumed", "kinds"), [(9.0, [Kind.STARTED_WHILE_PAUSED]), (5.0, []), (None, [])]
)
def test_a_pause_lets_the_head_finish_and_no_other(
    resumed: float | None, kinds: list[Kind]
) -> None:
    history, snapshot = _one_by_one(3)
    history.observe("operator", Pause(), None, 3.1, 3.2)
    _read_at(history, 4.1, 1)
    _read_at(history, 7.0, 1, 2, 3)
    if resumed is None:
        # Sent, and never answered: it may have been applied at any time.
        history.operations.append(Operation("operator", Resume(), 3.3))
    else:
        history.observe("operator", Resume(), None, resumed, resumed + 0.1)
    assert _kinds(history, snapshot) == kinds


def test_a_task_added_during_a_pause_is_not_done_in_it() -> None:
    history, snapshot = _one_by_one(1)
    history.observe("operator", Pause(), None, 0.1, 0.2)
    _read_at(history, 2.0, 1)
    assert _kinds(history, snapshot) == [Kind.STARTED_WHILE_PAUSED]


def test_the_retries_under_one_key_are_one_task() -> None:
    history, snapshot = _one_by_one(1)
    add = history.operations[0]
    assert isinstance(add.request, Add)
    add.request = replace(add.request, key="once")
    history.operations.insert(0, Operation("client", add.request, 0.5, 0.6))
    assert _kinds(history, snapshot) == []


def test_one_num_in_two_adds_cannot_be_judged() -> None:
    history, snapshot = _one_by_one(1)
    history.observe("client", history.operations[0].request, Added(2, 2), 5.0, 6.0)
    with pytest.raises(ValueError, match="num 1 was sent by two different adds"):
        check(history, snapshot, finishes=0)


def test_a_timeout_is_rounded_up_and_not_down() -> None:
    history, snapshot = _one_by_one(1, timeout=1.000_000_4)
    assert [row.timeout for row in snapshot.history] == [1_000_000]
    assert _kinds(history, snapshot) == [Kind.ALTERED]
    rows = (replace(snapshot.history[0], timeout=1_000_001, finished_at=2_000_001),)
    assert _kinds(history, Snapshot((), rows)) == []


# Which runs count.


def test_a_service_that_refuses_everything_proves_nothing() -> None:
    history = History()
    for num in range(1000):
        history.refused(history.invoke("client", Add(((num, 0.0),))))
    verdict = check(history, Snapshot((), ()), finishes=1)
    assert verdict.violations == ()
    assert not verdict.valid
    assert verdict.summary.startswith("proves nothing; 1000 operations (0 reads), 0 added, 0 done")


@pytest.mark.parametrize(("unknown", "valid"), [(5, True), (6, False)])
def test_a_run_needs_95_percent_of_definite_answers(unknown: int, valid: bool) -> None:
    history, snapshot = _one_by_one(100 - unknown)
    for num in range(1000, 1000 + unknown):
        history.operations.append(Operation("client", Add(((num, 0.0),)), 200.0, 201.0))
    verdict = check(history, snapshot, finishes=50)
    assert verdict.violations == ()
    assert verdict.valid is verdict.holds is valid
    assert f"{100 - unknown}.0 % definite (needed 95%)" in verdict.summary


def test_many_reads_do_not_make_up_for_unknown_writes() -> None:
    history, snapshot = _one_by_one(9)
    history.operations.append(Operation("client", Add(((1000, 0.0),)), 200.0, 201.0))
    for _ in range(1000):
        _read_at(history, 300.0, *range(1, 10))
    assert not check(history, snapshot, finishes=0).valid


def test_what_meets_an_injected_fault_is_excused() -> None:
    history, snapshot = _one_by_one(20)
    for num in range(1000, 1020):
        history.operations.append(Operation("client", Add(((num, 0.0),)), 200.0, 201.0))
    assert not check(history, snapshot, finishes=0).valid
    history.faults.append((200.5, 300.0))
    verdict = check(history, snapshot, finishes=0)
    assert verdict.valid
    assert verdict.counts.excused == verdict.counts.unknown == 20


def test_a_run_whose_faults_excuse_everything_proves_nothing() -> None:
    history, snapshot = _one_by_one(20)
    history.faults.append((0.0, 300.0))
    assert not check(history, snapshot, finishes=20).valid


def test_a_run_needs_the_stated_number_of_finishes() -> None:
    history, snapshot = _one_by_one(20)
    assert check(history, snapshot, finishes=20).valid
    assert not check(history, snapshot, finishes=21).valid


def test_a_fault_is_timed_by_the_clock_of_the_history() -> None:
    ticks = iter((1.0, 2.0))
    history = History(clock=lambda: next(ticks))
    with history.fault():
        pass
    assert history.faults == [(1.0, 2.0)]


def test_a_history_of_100_000_operations_is_checked_in_one_go() -> None:
    history, snapshot = _one_by_one(50_000, timeout=0.25)
    for number in range(1, 50_001):
        page, at = ReadResults(after=number - 1, limit=1), number + 0.9
        history.observe("reader", page, Results((number,)), at, at)
    verdict = check(history, snapshot, finishes=50_000)
    assert verdict.holds
    assert verdict.counts.operations == 100_000
