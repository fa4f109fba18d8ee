import gzip
import json
import time

import pytest

from codescaler.errors import InvalidInput
from codescaler.io.records import Candidate, Group, parse_group, parse_row, read_groups, read_lines, read_objects

RECORD = {"task_id": 7, "prompt": "p", "candidates": [{"code": "a", "passed": True, "seen": 1}, {"code": None}]}


def test_lines_are_numbered_and_blank_ones_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n  {"b": "é"}  \n', encoding="utf-8")
    assert list(read_lines(path)) == [
        (f"{path}, line 1", '{"a": 1}', {"a": 1}),
        (f"{path}, line 3", '{"b": "é"}', {"b": "é"}),
    ]


def test_packed_lines(tmp_path):
    path = tmp_path / "groups.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(RECORD).encode()))
    group = Group("7", "p", (Candidate("a", True), Candidate(None)), f"{path}, line 1")
    assert read_groups(path) == read_groups(str(path)) == [group]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_groups(path)


def test_damage_anywhere_in_a_packed_file_is_named(tmp_path):
    path = tmp_path / "groups.jsonl.gz"
    packed = gzip.compress(json.dumps(RECORD | {"text": "".join(map(chr, range(32, 1000)))}).encode(), mtime=0)
    num_refused = 0
    for at in range(len(packed)):
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :])
        try:
            read_groups(path)
        except InvalidInput:
            num_refused += 1
    assert num_refused > len(packed) * 0.9  # not in the header, where most bytes are unused


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}', encoding="utf-8-sig")
    assert [record for _, _, record in read_lines(path)] == [{"a": 1}]


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"a": 1}\n{"a"', "line 2 is not JSON"),
        (b"[" * 100_000, "line 1 is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 1 is not JSON"),
        (b"[1]", "line 1 holds a JSON list"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_what_is_no_object_is_named(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        list(read_lines(path))


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("codescaler.io.records.MAX_LINE_CHARS", 10)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "0123456789"}')
    with pytest.raises(InvalidInput, match="line 1 has 10 characters or more"):
        list(read_lines(path))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"absent\.jsonl cannot be read"):
        list(read_lines(tmp_path / "absent.jsonl"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"task_id": None}, "task_id is None"),
        ({"task_id": True}, "task_id is True"),
        ({"prompt": 3}, "prompt is 3"),
        ({"candidates": "a"}, "candidates is 'a'"),
        ({"candidates": ["a"]}, r"candidates\[0\] is 'a'"),
        ({"candidates": [{"passed": True}]}, r"candidates\[0\] is {'passed': True}; give an object with code"),
        ({"candidates": [{"code": 1}]}, "code is 1"),
        ({"candidates": [{"code": "a", "passed": 1}]}, "passed is 1; give true or false"),
    ],
)
def test_a_malformed_group_is_named(changes, message):
    with pytest.raises(InvalidInput, match=f"here: .*{message}" if "task" in message else message):
        parse_group(RECORD | changes, "here")


def test_a_blank_program_is_none():
    """An empty block of a completion parses; it has no token that a likelihood could count."""
    group = parse_group(
        RECORD | {"candidates": [{"code": " \n", "passed": False}, {"code": " x", "passed": True}]}, "here"
    )
    assert [candidate.code for candidate in group.candidates] == [None, " x"]


def test_records_in_memory():
    group = Group("1", "p", ())
    assert read_groups([group, RECORD])[0] is group
    with pytest.raises(InvalidInput, match=r"groups\[1\] is a int"):
        read_groups([group, 3])


def test_rows():
    assert parse_row({"prompt": "p", "response": "", "other": 1}, "row") == (("p", ""), None)
    messages = [{"role": "user", "content": "p"}]
    assert parse_row({"messages": messages}, "row") == (messages, None)
    for row, message in (
        ({"prompt": "p"}, "response is None"),
        ({"messages": "p"}, "messages is 'p'"),
        ({"messages": ["p", "r"]}, "give a list of objects"),
        ({"messages": messages, "response": "r"}, "has messages and response"),
        ({"prompt": "p", "response": "r", "score": 1.5}, "has a score already, 1.5"),
    ):
        with pytest.raises(InvalidInput, match=message):
            parse_row(row, "row")


@pytest.mark.parametrize(
    "text, said",
    [
        ("\n" * 10**8, r"line 10001 ends 10001 blank lines; remove them"),
        ('{"prompt": "p", "response": ""}\n' * 10**6, r"unpacks to more than 256 bytes for each of its own; unpack it"),
        (" " * 10**7, "unpacks to more than 256 bytes"),
    ],
)
def test_a_packed_file_that_expands_is_refused_soon(tmp_path, text, said):
    """Gzip holds a thousand bytes in one: a small file could take all time."""
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode()))
    started = time.process_time()
    for read in (read_lines, read_objects):
        with pytest.raises(InvalidInput, match=said):
            for _ in read(path):
                pass
    assert time.process_time() - started < 5


def test_a_packed_file_of_equal_programs_is_read(tmp_path):
    lines = [json.dumps({"task_id": n, "prompt": "p" * 200, "candidates": []}) for n in range(20_000)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n\n\n".join(lines).encode()))
    assert sum(1 for _ in read_lines(tmp_path / "a.jsonl.gz")) == 20_000
