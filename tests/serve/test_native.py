"""Our own routes: details of a ranking as `codescaler rerank` says them, and scores by line as `Engine.trace` does."""

import ast

import pytest

from codescaler.evaluate.calibration import Calibration
from codescaler.serve.native import MAX_TRACE_CHARS, TraceBody, make_trace_job
from codescaler.serve.refusal import Refusal
from codescaler.types import LineScore

from .conftest import check_answer, send, serve

PROBLEM = "Write a function `add(a, b)` that adds two numbers."
PROGRAMS = [
    "def add(a, b):\n    return a - b\n",
    "def add(a, b):\n    total = a + b\n\n    return total",
    "def plus(a, b):\n    return a + b",
    "def add(a, b:\n    return a",
    "def add(a, b):\n    return a - b",
]
CURVE = Calibration("sums", 9, {"mean": 2.0, "interval": (1.0, 3.0)}, 1.0)


@pytest.fixture(scope="module")
def measured(engine):
    """A server whose model has a calibration."""
    with serve((engine, ("tiny",), CURVE)) as running:
        yield running


def ask(server, path, body):
    status, headers, answer = send(server.url + path, body)
    check_answer(server, "POST", path, status, headers, answer)
    return status, answer


def rank(server, candidates, **options):
    item = {"problem": PROBLEM, "candidates": candidates}
    status, answer = ask(server, "/v1/programs", {"items": [item], "details": True, "asked_first": True, **options})
    assert status == 200
    return answer, [record["details"] for record in answer["results"][0]]


def test_details_are_those_of_the_ranking(measured, engine):
    answer, details = rank(measured, PROGRAMS)
    ranked = engine.rerank(PROBLEM, PROGRAMS, asked_first=True)
    assert [details[candidate.index]["rank"] for candidate in ranked] == [1, 2, 3, 4, 5]
    assert [details[candidate.index]["program"] for candidate in ranked] == [candidate.code for candidate in ranked]
    assert answer["asked"] == [["add"]]
    assert answer["calibrated_on"] == {"name": "sums", "num_problems": 9, "largest_gap": 1.0}
    assert [one["same_as"] for one in details] == [None, None, None, None, 0]
    assert [one["invalid_because"] for one in details] == [None, None, None, "does not parse", None]
    assert details[3]["syntax_error"].startswith("line 1: ")
    first, *others = ranked
    for candidate in others[:2]:  # those that define what is asked
        gap = first.score - candidate.score
        chance = CURVE.estimate_chance(gap)
        assert details[candidate.index]["gap_to_first"] == gap
        assert details[candidate.index]["first_is_correct"] == {
            "mean": chance["mean"],
            "interval": [*chance["interval"]],
        }
    assert details[first.index]["first_is_correct"] is None and details[first.index]["gap_to_first"] == 0
    assert all(details[candidate.index]["gap_to_first"] is None for candidate in others[2:])


def test_details_tell_what_was_extracted(server):
    completions = ["Here:\n```python\nx = 1\n```\nDone.", "no code", "```\nx\n```\n```\ny\n```", "```\nx = (\n```"]
    answer, details = rank(server, completions, extract=True)
    assert [one["program"] for one in details] == ["x = 1", None, None, None]
    assert [one["invalid_because"] for one in details] == [None, "no program", "several blocks", "does not parse"]
    assert [one["syntax_error"] is None for one in details] == [True, True, True, False]
    assert answer["calibrated_on"] is None and details[0]["first_is_correct"] is None


def test_two_blocks_of_another_language_are_several_blocks(server):
    pytest.importorskip("tree_sitter_cpp")
    blocks = ["```cpp\nint f() { return 1; }\n```\n" * 2, "```cpp\nint f( {\n```\n", "none"]
    _, details = rank(server, blocks, extract="paper", language="cpp")
    assert [one["invalid_because"] for one in details] == ["several blocks", "does not parse", "no program"]


@pytest.mark.parametrize("text, extract", [("x = (", False), ("```\nx = (\n```", "last"), ("```\nx = (\n```", "paper")])
def test_an_invalid_program_is_parsed_twice_at_most(server, monkeypatch, text, extract):
    parsed, parse = [], ast.parse
    monkeypatch.setattr("ast.parse", lambda code, *rest, **named: parsed.append(code) or parse(code, *rest, **named))
    _, (one,) = rank(server, [text], extract=extract)
    assert one["syntax_error"] == "line 1: '(' was never closed"
    assert parsed.count("x = (") <= 2


def test_without_details_the_answer_is_as_before(server):
    _, answer = ask(server, "/v1/programs", {"items": [{"problem": PROBLEM, "candidates": PROGRAMS}]})
    assert answer.keys() == {"id", "model", "results", "usage"}
    assert all(record.keys() == {"score", "is_valid"} for record in answer["results"][0])


def test_details_of_messages_are_one_candidate(server):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    status, answer = ask(server, "/v1/programs", {"items": [{"messages": messages}], "details": True})
    assert status == 200 and answer["results"][0][0]["details"]["rank"] == 1


def test_a_trace_has_the_bits_of_the_engine(server, engine):
    status, answer = ask(server, "/v1/trace", {"problem": PROBLEM, "programs": PROGRAMS, "system": "Be strict."})
    assert status == 200 and answer["common"] == []
    for program, expected in zip(answer["programs"], engine.trace(PROBLEM, PROGRAMS, system="Be strict."), strict=True):
        fields = ("number", "text", "score", "change")
        assert [LineScore(*(line[name] for name in fields)) for line in program["lines"]] == expected
        assert program["score"] == expected[-1].score
        falls = {line.change: line.number for line in expected if line.change < 0}
        assert program["largest_drop"] == (falls[min(falls)] if falls else None)
    shades = [line["shade"] for program in answer["programs"] for line in program["lines"]]
    assert max(map(abs, shades)) == 4


def test_common_lines_of_two_programs_are_no_drop(server):
    _, answer = ask(server, "/v1/trace", {"problem": PROBLEM, "programs": PROGRAMS[:2]})
    assert answer["common"] == [[1, 1]]
    for program in answer["programs"]:
        assert [line["is_common"] for line in program["lines"]] == [True] + [False] * (len(program["lines"]) - 1)
        assert program["largest_drop"] != 1


@pytest.mark.parametrize("problem, system", [("p" * 8000, None), ("p" * 4000, "s" * 4000)])
def test_a_trace_counts_problem_and_system_prompt_for_each_line(monkeypatch, problem, system):
    monkeypatch.delattr("codescaler.serve.native.plan_trace")  # it is refused before
    with pytest.raises(Refusal, match=f"a trace may have {MAX_TRACE_CHARS}") as caught:
        make_trace_job(TraceBody(problem=problem, programs=["x\n" * 1100 + "x"], system=system))
    assert (caught.value.status, caught.value.code) == (400, "too_long")


@pytest.mark.parametrize(
    "programs, code",
    [
        ([], "invalid_request"),
        (["x\n" * 5000 + "x"], "too_many_rows"),
        (["x"] * 4096, "too_many_rows"),
        ([("y" * 99 + "\n") * 2000 + "x"], "too_long"),  # each line with what stands before it
        (["\n".join(["x = 1"] * 400)], "invalid_request"),  # too long for the model
        ([3], "invalid_request"),
    ],
)
def test_a_trace_that_is_too_large_is_refused_at_once(server, programs, code):
    status, answer = ask(server, "/v1/trace", {"problem": PROBLEM, "programs": programs})
    assert (status, answer["error"]["code"]) == (400, code)
