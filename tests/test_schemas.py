"""What travels as JSON: a table of inputs with their exact answers, and what goes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanic_app.errors import Fault, Invalid, NotFound
from sanic_app.http.blueprints.adding import request_text
from sanic_app.http.bodies import parse_new_task, parse_new_tasks, parse_object
from sanic_app.http.parameters import (
    parse_history_num,
    parse_key,
    parse_page,
    parse_range,
    refuse_query,
)
from sanic_app.http.schemas import (
    added_body,
    new_batch,
    new_task,
    queue_object,
    result_object,
    seconds,
    task_object,
)
from sanic_app.queue.outlook import Outlook
from sanic_app.store import Added
from sanic_app.task import SECOND, NewTask, State, Task

MAX = 86_400 * SECOND

NOT_JSON = [Fault("", "The body is not valid JSON.")]
NOT_UTF8 = [Fault("", "The body is not UTF-8.")]
NOT_OBJECT = [Fault("", "The body must be a JSON object.")]
BAD_NUM = [Fault("/num", "Must be an integer in the range of a signed 64-bit number.")]
BAD_TIMEOUT = [Fault("/timeout", "Must be a number of seconds from 0 to 86400.")]
NO_NUM = [Fault("/num", "This field is required.")]
NO_TIMEOUT = [Fault("/timeout", "This field is required.")]


def deep(key: str, depth: int, inner: str) -> str:
    for _ in range(depth):
        inner = f'{{"{key}":{inner}}}'
    return inner


MANY = ",".join(f'"{index}":1' for index in range(10_000))
TWICE = ",".join(['"a":1'] * 10_000)


@pytest.mark.parametrize(
    "body",
    [
        "{" + TWICE + "}",
        "{" + MANY + "}",
        '{"tasks":[' + ",".join(["{" + MANY + "}"] * 3) + "]}",
        '{"tasks":[{"num":1,"timeout":1}],' + MANY + "}",
        '{"tasks":[' + ",".join([deep("k" * 64, 61, '{"a":1,"a":1}')] * 100) + "]}",
        '{"tasks":[' + ",".join([deep("k" * 64, 880, "1")] * 20) + "]}",
    ],
)
def test_an_answer_does_not_grow_with_what_is_sent(body: str) -> None:
    for parse in (
        lambda: parse_new_task(body.encode(), MAX),
        lambda: parse_new_tasks(body.encode(), MAX, 10_000),
    ):
        with pytest.raises(Invalid) as refused:
            parse()
        assert 0 < len(refused.value.faults) <= 20
        assert all(len(fault.pointer) <= 500 for fault in refused.value.faults)


@pytest.mark.parametrize("part", ["[],", "{},", '"a":1,', '{"num":1,"timeout":0},'])
def test_a_body_with_more_parts_than_any_batch_is_refused_undecoded(part: str) -> None:
    """Decoded, it would have garbage collections stop all threads of the service."""
    full = ",".join(['{"num":1,"timeout":0}'] * 10_000)
    tasks = parse_new_tasks(f'{{"tasks":[{full}]}}'.encode(), MAX, 10_000)
    assert tasks == [NewTask(1, 0)] * 10_000
    # It has no end, as a decoder would find out.
    body = '{"tasks":[' + part * 40_000
    with pytest.raises(Invalid) as refused:
        parse_new_tasks(body.encode(), MAX, 10_000)
    assert refused.value.faults == (Fault("/tasks", "Must be a list of 1 to 10000 tasks."),)


def test_what_lies_too_deep_is_reported_at_the_last_place_that_can_be_named() -> None:
    name = "k" * 64
    body = '{"tasks":[' + deep(name, 9, '{"a":1,"a":1}') + "]}"
    with pytest.raises(Invalid) as refused:
        parse_new_tasks(body.encode(), MAX, 10_000)
    assert [fault.pointer for fault in refused.value.faults] == ["/tasks/0" + f"/{name}" * 7]


def test_no_more_query_parameters_are_reported_than_twenty() -> None:
    query = [(f"x{index}", "1") for index in range(1_000)]
    for parse in (parse_page, parse_range, refuse_query):
        with pytest.raises(Invalid) as refused:
            parse(query)
        assert len(refused.value.faults) == 20


def unknown(*pointers: str) -> list[Fault]:
    return [Fault(pointer, "Unknown field.") for pointer in pointers]


def twice(*pointers: str) -> list[Fault]:
    return [Fault(pointer, "This key stands twice.") for pointer in pointers]


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


GOOD = '{"num":1,"timeout":1}'

BODIES: list[tuple[bytes, list[Fault]]] = [
    # Not one JSON text.
    (b"", NOT_JSON),
    (b" ", NOT_JSON),
    (b"\n", NOT_JSON),
    (b"\0", NOT_JSON),
    (b"undefined", NOT_JSON),
    (b"{", NOT_JSON),
    (b'{"num":1', NOT_JSON),
    (b'{"num":1,}', NOT_JSON),
    (b'{"num" 1}', NOT_JSON),
    (b'{"num":1 "timeout":1}', NOT_JSON),
    (b"{'num':1,'timeout':1}", NOT_JSON),
    (b"{num:1,timeout:1}", NOT_JSON),
    (b"num=1&timeout=1", NOT_JSON),
    (b"// here\n" + GOOD.encode(), NOT_JSON),
    (GOOD.encode() + b"x", NOT_JSON),
    (GOOD.encode() + b"{}", NOT_JSON),
    (GOOD.encode() + b"\0", NOT_JSON),
    (GOOD.encode() + b"\n" + GOOD.encode(), NOT_JSON),
    (b'{"num":1,"timeout":1,"x":"\x01"}', NOT_JSON),
    (b'{"num":1,"timeout":1,"x":"\\x"}', NOT_JSON),
    (b'{"num":1,"timeout":1,"x":"\\u12"}', NOT_JSON),
    (b"\x0b" + GOOD.encode(), NOT_JSON),
    (("\u00a0" + GOOD).encode(), NOT_JSON),
    # Not in UTF-8.
    (b"\xff", NOT_UTF8),
    (b'{"num":1,"timeout":1,"\xe9":1}', NOT_UTF8),
    (b'{"num":1,"timeout":1,"\xed\xa0\x80":1}', NOT_UTF8),
    (b'{"num":1,"timeout":1,"\xc0\xaf":1}', NOT_UTF8),
    (GOOD.encode("utf-16"), NOT_UTF8),
    (GOOD.encode("utf-32"), NOT_UTF8),
    (GOOD.encode("utf-16-le"), NOT_JSON),
    (GOOD.encode("utf-16-be"), NOT_JSON),
    (b"\xef\xbb\xbf" + GOOD.encode(), NOT_JSON),
    # Not an object.
    (b"[]", NOT_OBJECT),
    (b"1", NOT_OBJECT),
    (b'"num"', NOT_OBJECT),
    (b"null", NOT_OBJECT),
    (b"true", NOT_OBJECT),
    (b"[" + GOOD.encode() + b"]", NOT_OBJECT),
    # Nested deeper than anybody needs.
    (b"[" * 8_000, NOT_JSON),
    (b"[" * 8_000 + b"]" * 8_000, NOT_JSON),
    (b'{"a":' * 3_000, NOT_JSON),
    (b'{"num":' + b"[" * 7_000 + b"]" * 7_000 + b',"timeout":1}', NOT_JSON),
    # To the level: the same on each Python, whose decoders give up at other depths.
    (nested(64), NOT_OBJECT),
    (nested(65), NOT_JSON),
    (nested(500), NOT_JSON),
    (nested(5_000), NOT_JSON),
    (b'{"num":' + nested(63) + b',"timeout":1}', BAD_NUM),
    (b'{"num":' + nested(64) + b',"timeout":1}', NOT_JSON),
    (b'{"num":1,"timeout":1,"x":' + nested(500) + b"}", NOT_JSON),
    (b'{"a":' * 64 + b"1" + b"}" * 64, unknown("/a") + NO_NUM + NO_TIMEOUT),
    (b'{"a":' * 65 + b"1" + b"}" * 65, NOT_JSON),
    (b'{"x":1,"x":' + nested(63) + b"}", twice("/x")),
    (b'{"x":1,"x":' + nested(64) + b"}", NOT_JSON),
    (b'{"a":' * 63 + b'{"y":1,"y":1}' + b"}" * 63, twice("/a" * 63 + "/y")),
    (b'{"a":' * 64 + b'{"y":1,"y":1}' + b"}" * 64, NOT_JSON),
    # Fields that are missing or unknown.
    (b"{}", NO_NUM + NO_TIMEOUT),
    (b'{"num":1}', NO_TIMEOUT),
    (b'{"timeout":1}', NO_NUM),
    (b'{"Num":1,"timeout":1}', unknown("/Num") + NO_NUM),
    (b'{"num":1,"timeout":1,"x":1}', unknown("/x")),
    (b'{"num":1,"timeout":1,"":1}', unknown("/")),
    (b'{"num":1,"timeout":1,"history_num":1,"state":2}', unknown("/history_num", "/state")),
    (b'{"x":1,"num":true}', unknown("/x") + BAD_NUM + NO_TIMEOUT),
    (b'{"num":"","timeout":""}', BAD_NUM + BAD_TIMEOUT),
    # Pointers are escaped, harmless and short.
    (b'{"num":1,"timeout":1,"a/b~c":1}', unknown("/a~1b~0c")),
    (b'{"num":1,"timeout":1,"~1":1}', unknown("/~01")),
    (b'{"num":1,"timeout":1,"\\u0000\\n":1}', unknown("/\0\n")),
    (b'{"num":1,"timeout":1,"\\ud800":1}', unknown("/\\ud800")),
    ('{"num":1,"timeout":1,"\u2028é":1}'.encode(), unknown("/\\u2028\\xe9")),
    (b'{"num":1,"timeout":1,"' + b"k" * 9_000 + b'":1}', unknown("/" + "k" * 64)),
    # Keys that stand twice.
    (b'{"num":1,"num":1,"timeout":1}', twice("/num")),
    (b'{"num":1,"timeout":1,"timeout":1}', twice("/timeout")),
    (b'{"num":1,"timeout":1,"n\\u0075m":2}', twice("/num")),
    (b'{"num":1,"num":1,"num":1,"timeout":1}', twice("/num", "/num")),
    (b'{"num":1,"timeout":{"a":1,"a":2}}', twice("/timeout/a")),
    (b'{"num":[0,{"a":{"b/":1,"b/":2}}],"timeout":1}', twice("/num/1/a/b~1")),
    (b'{"x":1,"x":{"y":1,"y":2}}', twice("/x", "/x/y")),
    (b'[{"a":1,"a":2}]', twice("/0/a")),
    (b'{"num":{"a":1,"a":2},"timeout":', NOT_JSON),
    (b'{"num":{"a":1,"a":2},"timeout":' + b"[" * 8_000, NOT_JSON),
]

NUMS: list[tuple[str, int | list[Fault]]] = [
    ("0", 0),
    ("-0", 0),
    ("1", 1),
    ("-1", -1),
    ("9223372036854775807", 2**63 - 1),
    ("-9223372036854775808", -(2**63)),
    ("9223372036854775808", BAD_NUM),
    ("-9223372036854775809", BAD_NUM),
    ("18446744073709551616", BAD_NUM),
    ("9" * 4_300, BAD_NUM),
    ("-" + "9" * 4_300, BAD_NUM),
    ("9" * 4_301, NOT_JSON),
    ("9" * 16_000, NOT_JSON),
    ("1.0", BAD_NUM),
    ("-0.0", BAD_NUM),
    ("1e3", BAD_NUM),
    ("1E0", BAD_NUM),
    ("1e400", BAD_NUM),
    ("1e-400", BAD_NUM),
    ("9223372036854775807.0", BAD_NUM),
    ("true", BAD_NUM),
    ("false", BAD_NUM),
    ("null", BAD_NUM),
    ('"1"', BAD_NUM),
    ("[1]", BAD_NUM),
    ("{}", BAD_NUM),
    ("NaN", NOT_JSON),
    ("Infinity", NOT_JSON),
    ("-Infinity", NOT_JSON),
    ("01", NOT_JSON),
    ("+1", NOT_JSON),
    ("0x1", NOT_JSON),
    ("1_000", NOT_JSON),
    ("\u0661", NOT_JSON),
    ("--1", NOT_JSON),
    ("", NOT_JSON),
]

TIMEOUTS: list[tuple[str, int | list[Fault]]] = [
    ("0", 0),
    ("-0", 0),
    ("0.0", 0),
    ("-0.0", 0),
    ("0e99", 0),
    ("0e-99", 0),
    ("-0e999999999999999999", 0),
    ("1", 1_000_000),
    ("1.0", 1_000_000),
    ("3e0", 3_000_000),
    ("1E1", 10_000_000),
    ("1e+1", 10_000_000),
    ("1.5", 1_500_000),
    ("0.1", 100_000),
    ("0.3", 300_000),
    ("1.1", 1_100_000),
    ("0.000001", 1),
    ("1e-6", 1),
    # Rounded up, as the decimals that were sent.
    ("0.0000001", 1),
    ("0.1000001", 100_001),
    ("0.0000010000000000000000000001", 2),
    ("0.1000000000000000000000000000000000000001", 100_001),
    ("0.0999999999999999999999999999999999999999", 100_000),
    ("1e-400", 1),
    ("1e-9999999", 1),
    ("1e-999999999999999999", 1),
    ("0." + "0" * 16_000 + "1", 1),
    ("0." + "3" * 16_000, 333_334),
    # The borders.
    ("86400", MAX),
    ("86400.0", MAX),
    ("8.64e4", MAX),
    ("864000e-1", MAX),
    ("86399.9999999", MAX),
    ("86400.0000001", BAD_TIMEOUT),
    ("86400.0000000000000000000000000000000000001", BAD_TIMEOUT),
    ("86401", BAD_TIMEOUT),
    ("86400000000", BAD_TIMEOUT),
    ("-1", BAD_TIMEOUT),
    ("-0.0000001", BAD_TIMEOUT),
    ("-1e-400", BAD_TIMEOUT),
    ("1e5", BAD_TIMEOUT),
    ("1e400", BAD_TIMEOUT),
    ("1e999999999999999999", BAD_TIMEOUT),
    ("9" * 4_300, BAD_TIMEOUT),
    ("9" * 16_000 + ".0", BAD_TIMEOUT),
    # Numbers that no implementation limit here holds.
    ("9" * 4_301, NOT_JSON),
    ("1e9999999999999999999999", NOT_JSON),
    ("1e-9999999999999999999999", NOT_JSON),
    ("true", BAD_TIMEOUT),
    ("false", BAD_TIMEOUT),
    ("null", BAD_TIMEOUT),
    ('"1"', BAD_TIMEOUT),
    ("[]", BAD_TIMEOUT),
    ("{}", BAD_TIMEOUT),
    ("NaN", NOT_JSON),
    ("Infinity", NOT_JSON),
    ("-Infinity", NOT_JSON),
    (".5", NOT_JSON),
    ("5.", NOT_JSON),
    ("1e", NOT_JSON),
    ("1e1.5", NOT_JSON),
    ("1,5", NOT_JSON),
]


def parse(body: bytes, timeout_max: int = MAX) -> NewTask | list[Fault]:
    try:
        return parse_new_task(body, timeout_max)
    except Invalid as error:
        return list(error.faults)


def shown(value: object) -> str:
    return str(value)[:40].encode("ascii", "backslashreplace").decode()


@pytest.mark.parametrize(("body", "faults"), BODIES, ids=shown)
def test_a_wrong_body_is_refused_with_every_fault(body: bytes, faults: list[Fault]) -> None:
    assert parse(body) == faults


@pytest.mark.parametrize(("text", "answer"), NUMS, ids=shown)
def test_a_num_is_an_integer_of_64_bits_and_nothing_else(
    text: str, answer: int | list[Fault]
) -> None:
    expected = answer if isinstance(answer, list) else NewTask(answer, SECOND)
    assert parse(f'{{"num":{text},"timeout":1}}'.encode()) == expected
    # The same through the general way, which a fractional timeout takes.
    expected = answer if isinstance(answer, list) else NewTask(answer, SECOND // 2)
    assert parse(f'{{"num":{text},"timeout":0.5}}'.encode()) == expected


@pytest.mark.parametrize(("text", "answer"), TIMEOUTS, ids=shown)
def test_a_timeout_is_rounded_up_to_the_microsecond(text: str, answer: int | list[Fault]) -> None:
    expected = answer if isinstance(answer, list) else NewTask(1, answer)
    assert parse(f'{{"num":1,"timeout":{text}}}'.encode()) == expected


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        '{"timeout":1,"num":1}',
        ' \r\n\t{ "num" : 1 , "timeout" : 1 } \n',
        '{"n\\u0075m":1,"timeout":1}',
        '{"num":1,"timeout":1.0}',
    ],
)
def test_what_means_the_same_is_the_same(body: str) -> None:
    assert parse(body.encode()) == NewTask(1, SECOND)


@pytest.mark.parametrize(
    ("timeout_max", "text", "answer"),
    [
        (0, "0", 0),
        (0, "0.0", 0),
        (0, "0.0000001", None),
        (0, "1", None),
        (1, "0.000001", 1),
        (1, "0.0000011", None),
        (1_500_000, "1.5", 1_500_000),
        (1_500_000, "1.5000001", None),
        (1_500_000, "2", None),
        (31_536_000 * SECOND, "31536000", 31_536_000 * SECOND),
        (31_536_000 * SECOND, "31536000.0000001", None),
    ],
)
def test_the_greatest_timeout_is_a_setting(timeout_max: int, text: str, answer: int | None) -> None:
    top = seconds(timeout_max)
    refused = [Fault("/timeout", f"Must be a number of seconds from 0 to {top}.")]
    expected = refused if answer is None else NewTask(1, answer)
    assert parse(f'{{"num":1,"timeout":{text}}}'.encode(), timeout_max) == expected


def test_one_fault_is_the_detail_and_several_are_summed_up() -> None:
    with pytest.raises(Invalid) as one:
        parse_new_task(b'{"num":1}', MAX)
    assert one.value.detail == "This field is required."
    with pytest.raises(Invalid) as two:
        parse_new_task(b"{}", MAX)
    assert two.value.detail == "The request is not valid."


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_no_bytes_lead_to_anything_but_an_answer(body: bytes) -> None:
    assert isinstance(parse(body), list | NewTask)


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["num", "timeout", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(_JSON)
def test_no_json_leads_to_anything_but_an_answer(value: object) -> None:
    answer = parse(json.dumps(value).encode())
    if isinstance(answer, NewTask):
        assert isinstance(value, dict)
        assert type(value["num"]) is int
        assert 0 <= value["timeout"] <= answer.timeout / SECOND
        assert value.keys() == {"num", "timeout"}


@given(st.integers(0, 31_536_000 * SECOND))
def test_a_timeout_that_was_answered_can_be_sent_again(micros: int) -> None:
    text = json.dumps({"num": 1, "timeout": seconds(micros)})
    assert parse(text.encode(), 31_536_000 * SECOND) == NewTask(1, micros)


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0"), (3 * SECOND, "3"), (1_500_000, "1.5"), (100_000, "0.1"), (MAX, "86400")],
)
def test_a_whole_number_of_seconds_comes_back_as_one(micros: int, text: str) -> None:
    assert json.dumps(seconds(micros)) == text


def test_an_object_keeps_its_decimals_as_they_were_sent() -> None:
    assert str(parse_object(b'{"x":0.10000}')["x"]) == "0.10000"


# Headers, queries and paths.


@pytest.mark.parametrize("key", ["a", "!", "~", "0" * 255, 'order-4711/"x"'])
def test_an_idempotency_key_is_visible_ascii(key: str) -> None:
    assert parse_key([key]) == key


def test_no_header_is_no_idempotency_key() -> None:
    assert parse_key([]) is None


@pytest.mark.parametrize(
    "values",
    [
        [""],
        [" "],
        ["a b"],
        ["a\t"],
        ["a\n"],
        ["\n"],
        ["é"],
        ["\x7f"],
        ["\x00"],
        ["\udce9"],
        ["a" * 256],
        ["a", "a"],
        ["a", "b"],
    ],
    ids=shown,
)
def test_anything_else_is_no_idempotency_key(values: list[str]) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_key(values)
    assert refusal.value.faults == (
        Fault("", "Idempotency-Key must be one value of 1 to 255 visible ASCII characters."),
    )


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ([], (0, 100)),
        ([("limit", "1")], (0, 1)),
        ([("limit", "1000")], (0, 1000)),
        ([("limit", "007")], (0, 7)),
        ([("after", "0")], (0, 100)),
        ([("after", "9223372036854775807")], (2**63 - 1, 100)),
        ([("after", "5"), ("limit", "2")], (5, 2)),
    ],
)
def test_a_page_is_told_by_limit_and_after(
    query: list[tuple[str, str]], page: tuple[int, int]
) -> None:
    assert parse_page(query) == page


BAD_LIMIT = "The query parameter limit must be a whole number from 1 to 1000."
BAD_AFTER = "The query parameter after must be a whole number from 0 to 9223372036854775807."


@pytest.mark.parametrize(
    ("query", "messages"),
    [
        *(
            ([("limit", text)], [BAD_LIMIT])
            for text in ("0", "1001", "-1", "1.0", "1e1", "", " 1", "x", "+1", "1\n", "\u0661")
        ),
        ([("limit", "9" * 5_000)], [BAD_LIMIT]),
        *(([("after", text)], [BAD_AFTER]) for text in ("-1", "9223372036854775808", "x", "")),
        ([("after", "x"), ("limit", "0")], [BAD_AFTER, BAD_LIMIT]),
        ([("limit", "1"), ("limit", "1")], ["The query parameter limit is given twice."]),
        ([("Limit", "1")], ["Unknown query parameter Limit."]),
        ([("", "")], ["Unknown query parameter ."]),
        ([("é\n" + "x" * 99, "")], ["Unknown query parameter \\xe9\n" + "x" * 59 + "."]),
    ],
    ids=shown,
)
def test_a_wrong_page_is_refused_with_every_fault(
    query: list[tuple[str, str]], messages: list[str]
) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_page(query)
    assert [fault.message for fault in refusal.value.faults] == messages


def test_where_no_query_is_known_each_parameter_is_refused() -> None:
    refuse_query([])
    with pytest.raises(Invalid) as refusal:
        refuse_query([("a", "1"), ("b", "")])
    assert [fault.message for fault in refusal.value.faults] == [
        "Unknown query parameter a.",
        "Unknown query parameter b.",
    ]


@pytest.mark.parametrize("number", [1, 9, 10, 2**63 - 1])
def test_a_history_number_of_a_path_is_a_positive_integer_of_64_bits(number: int) -> None:
    assert parse_history_num(str(number)) == number


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "00", "01", "-1", "+1", "1.0", "1e3", " 1", "1\n", "x", "\u0661", "9" * 5_000),
        *("9223372036854775808", "99999999999999999999"),
    ],
    ids=shown,
)
def test_anything_else_in_a_path_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        parse_history_num(text)


# What goes out.

DAY = "2026-11-23T21:15:0"
STAMP = 1_795_468_500_000_000


def test_a_task_goes_out_with_seven_fields() -> None:
    task = Task(7, -5, 1_500_000, STAMP, State.QUEUED)
    assert task_object(task) == {
        "history_num": 7,
        "date_created": DAY + "0.000000Z",
        "num": -5,
        "timeout": 1.5,
        "state": "queued",
        "date_started": None,
        "date_finished": None,
    }
    done = task._replace(state=State.DONE, started_at=STAMP + SECOND, finished_at=STAMP + 2_500_000)
    assert task_object(done)["state"] == "done"
    assert task_object(done)["date_started"] == DAY + "1.000000Z"
    assert task_object(done)["date_finished"] == DAY + "2.500000Z"
    assert result_object(done) == {
        "history_num": 7,
        "num": -5,
        "date_finished": DAY + "2.500000Z",
    }


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("new", [NewTask(-(2**63), 0), NewTask(5, 1), NewTask(0, 3 * SECOND)])
def test_an_add_is_answered_with_the_task_that_it_made(new: NewTask, started: bool) -> None:
    task = Task(
        *(9, new.num, new.timeout, STAMP),
        State.WAITING if started else State.QUEUED,
        STAMP if started else None,
    )
    assert json.loads(added_body(Added(9, 9, STAMP, started), new)) == task_object(task)


def test_the_queue_goes_out_with_its_figures_and_its_head() -> None:
    assert queue_object(Outlook(5, 1.23456789, 2.0, True, None, 2)) == {
        "depth": 5,
        "oldest_task_age_seconds": 1.234568,
        "backlog_seconds": 2.0,
        "paused": True,
        "head": None,
        "pruned": 2,
    }
    head = Task(5, 1, 0, STAMP, State.WAITING, STAMP)
    assert queue_object(Outlook(1, 0, 0, False, head, 0))["head"] == task_object(head)


@pytest.mark.parametrize("timeout_max", [0, 1, SECOND // 2, MAX])
def test_what_the_document_shows_as_an_input_is_one(timeout_max: int) -> None:
    (num, timeout) = new_task(timeout_max).example.values()
    asked = parse_new_task(json.dumps(new_task(timeout_max).example).encode(), timeout_max)
    assert (asked.num, seconds(asked.timeout)) == (num, timeout)
    batch = json.dumps(new_batch(timeout_max, 1).example).encode()
    assert parse_new_tasks(batch, timeout_max, 1) == [asked]


def test_requests_are_equal_exactly_when_they_ask_for_the_same() -> None:
    asked = [
        ([NewTask(1, 0)], False),
        ([NewTask(10, 0)], False),
        ([NewTask(1, 10)], False),
        ([NewTask(-1, 0)], False),
        ([NewTask(1, 0)], True),
        ([NewTask(1, 0), NewTask(1, 0)], True),
        ([NewTask(1, 0), NewTask(1, 1)], True),
    ]
    assert len({request_text(tasks, batch=batch) for tasks, batch in asked}) == len(asked)
    assert request_text([NewTask(1, 0)], batch=True) == request_text((NewTask(1, 0),), batch=True)


def test_a_request_text_that_is_on_a_disk_already_stays_the_same() -> None:
    """An idempotency key may be older than the release."""
    assert request_text([NewTask(1, 20)], batch=False) == "task 1:20"
    digest = "94b1bfd9962746141b919a38b215c9172e8a84230a48e57d50c4b4cb4523d896"
    assert request_text([NewTask(1, 20), NewTask(3, 0)], batch=True) == f"batch {digest}"
