"""New problems: what is asked, and what no candidate may be."""

import json

import pytest

from codescaler.data.prefer.leakage import HeldOut
from codescaler.data.sample.sampling import Completion, Sampling
from codescaler.data.synthesis.concepts import Seed
from codescaler.data.synthesis.generate import (
    choose_examples,
    generate_problems,
    has_solution,
    read_signature,
    write_statement,
)
from codescaler.errors import InvalidInput

SEEDS = [
    Seed("s/1", "Sort the flowers of the garden by their height, then print them in one line.", ("sorting",), ("tie",)),
    Seed(
        "s/2", "Find the lightest bridge between two villages on a river.", ("graph",), ("shortest path",), 3.0, "MIT"
    ),
    Seed("s/3", "x" * 7000, ("sorting", "graph"), ()),
    Seed("s/4", "Say hello.", ("output",), ()),
]
LAMPS = (
    "A shop sells lamps. Each lamp shines on a part of a long street. Given the parts, return the least number of "
    "lamps that light the whole street, or -1."
)


def answer(statement=LAMPS, signature="def light(parts: list, length: int) -> int:"):
    return json.dumps({"statement": statement, "signature": signature})


GOOD = answer()
HELD_OUT = "Write a function that merges overlapping meetings of a busy calendar and counts how many of them remain"


class Sampler:
    identity = "a list"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def complete(self, requests):
        for request in requests:
            self.asked.append(request)
            yield [Completion(*self.answers.pop(0)) for _ in request.seeds]


@pytest.fixture
def walks(tmp_path):
    path = tmp_path / "walks.jsonl"
    walks = [
        {"task_id": f"walk/0/{n}", "concepts": c} for n, c in enumerate((["sorting", "tie"], ["graph"], ["absent"]))
    ]
    path.write_text("".join(json.dumps(walk) + "\n" for walk in walks))
    return path


def test_examples_are_the_nearest_by_jaccard():
    chosen = choose_examples(["sorting", "tie", "graph"], SEEDS, 2)
    assert [(seed.task_id, round(similarity, 3)) for seed, similarity in chosen] == [("s/1", 0.667), ("s/2", 0.25)]
    assert choose_examples(["absent"], SEEDS, 2) == []
    everything = choose_examples(["sorting", "tie"], SEEDS, 9)
    for seed, similarity in everything:  # the definition
        wanted = {"sorting", "tie"}
        assert similarity == len(wanted & seed.concepts) / len(wanted | seed.concepts) > 0


def test_candidates_meet_the_gates(walks, tmp_path):
    bad = [
        (answer("Light it."), "stop"), (GOOD, "length"), (answer(signature="light(parts)"), "stop"),
        (answer(signature="def light(parts):\n    return min(parts)"), "stop"),
        (answer(f"{SEEDS[0].prompt} {SEEDS[0].prompt}", "def sort(flowers):"), "stop"),
        (answer(f"{HELD_OUT}. Give the number.", "def merge(meetings):"), "stop"), (LAMPS, "stop"),
    ]  # fmt: skip
    sampler = Sampler(*bad, (GOOD, "stop"), (f"thoughts</think>\n```json\n{GOOD}\n```", "stop"), *[(GOOD, "stop")] * 18)
    target = tmp_path / "generated.jsonl"
    counts = generate_problems(
        walks, SEEDS, target, sampler, Sampling("tiny", num_samples=9), form="call",
        held_out=HeldOut(frozenset({"h/1"}), {"h/1": HELD_OUT}),
    )  # fmt: skip
    records = [json.loads(line) for line in target.read_text().splitlines()]
    reasons = [candidate["rejected"] for candidate in records[0]["candidates"]]
    assert reasons == [
        "it has less than 120 characters", "it was cut at --max-tokens", "it shows no signature",
        "it shows a solution", "it is nearly the seed s/1", "it is nearly the held-out h/1",
        "it is no JSON object with statement and signature", None, "it repeats another candidate",
    ]  # fmt: skip
    assert counts == {
        "walks": 3, "candidates": 27, "left": 3, "too short": 1, "cut short": 1, "without a signature": 1,
        "with a solution": 1, "near a seed": 1, "near a held-out problem": 1, "in another form": 1, "repeated": 17,
    }  # fmt: skip
    kept = records[0]["candidates"][7]
    assert kept["statement"] == f"{LAMPS}\n\ndef light(parts: list, length: int) -> int:"
    assert kept["entry_point"] == "light" and kept["answer"] == GOOD
    assert records[1]["seeds"] == [{"task_id": "s/2", "license": "MIT", "similarity": 0.5}]
    assert records[0]["concept_seeds"] == {"sorting": ["s/1", "s/3"], "tie": ["s/1"]}
    assert records[1]["licenses"] == ["MIT", "unknown"] and records[2]["concept_seeds"] == {"absent": []}
    assert "sorting, tie" in sampler.asked[0].prompt and SEEDS[0].prompt in sampler.asked[0].prompt
    assert len(set(sampler.asked[0].seeds)) == 9 and records[2]["seeds"] == []


def test_a_run_that_was_stopped_goes_on(walks, tmp_path):
    sampling = Sampling("tiny", num_samples=2)
    answers = [(json.dumps({"statement": f"{LAMPS} {n}", "input": "n", "output": "m"}), "stop") for n in range(6)]
    whole, target = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    generate_problems(walks, SEEDS, whole, Sampler(*answers), sampling)
    with pytest.raises(IndexError):
        generate_problems(walks, SEEDS, target, Sampler(*answers[:3]), sampling)
    assert (tmp_path / "out.jsonl.partial").read_text().count("\n") == 1
    rest = Sampler(*answers[2:])
    generate_problems(walks, SEEDS, target, rest, sampling)
    assert len(rest.asked) == 2
    assert target.read_bytes() == whole.read_bytes()


def test_bad_settings(walks, tmp_path):
    with pytest.raises(InvalidInput, match="form 'proof' is not known; use one of program, call"):
        generate_problems(walks, SEEDS, tmp_path / "o.jsonl", Sampler(), Sampling("tiny"), form="proof")
    walks.write_text(json.dumps({"task_id": "w", "concepts": []}))
    with pytest.raises(InvalidInput, match="line 1 is not a line of `codescaler data synth walk`"):
        generate_problems(walks, SEEDS, tmp_path / "o.jsonl", Sampler(), Sampling("tiny"))


def test_a_problem_is_written_of_its_parts():
    program = {"statement": "Add.\nTwice.", "input": " Two numbers. ", "output": "The sum.", "title": "Add"}
    assert write_statement(program, "program") == "Add.\nTwice.\n\nInput:\nTwo numbers.\n\nOutput:\nThe sum."
    assert write_statement({"statement": "Add.", "signature": "def f(a):"}, "call") == "Add.\n\ndef f(a):"
    signature = {"signature": "def f(a):"}
    for text in (" ", 1, None, "a \ud800", "2 \times 3"):
        assert write_statement({"statement": text, **signature}, "call") == ""
    for missing in ({}, signature, {"statement": "Add."}):
        assert write_statement(missing, "call") == ""


@pytest.mark.parametrize(
    "signature, name",
    [
        ("def f(a: int) -> int", "f"),
        ("`def f(a):`", "f"),
        ("def f(\n    a,\n    b=1,\n):", "f"),
        ('def f(a):\n    """Twice a."""', "f"),
        ("def f(a): return a", "f"),
        ("f(a)", None),
        ("async def f(a):", None),
        ("def f(self, a):", None),
        ("def f(a):\n    ...\ndef g(a):\n    ...", None),
        ("class Solution:\n    def f(self, a):", None),
        ("def f(", None),
    ],
)
def test_signatures(signature, name):
    found = read_signature(signature)
    assert (found and found.name) == name


def test_the_function_is_that_of_the_signature(walks, tmp_path):
    parts = {"statement": f"{LAMPS}\ndef helper(a):\nis known.", "signature": "```def light(parts) -> int```"}
    target = tmp_path / "o.jsonl"
    generate_problems(
        walks, SEEDS, target, Sampler(*[(json.dumps(parts), "stop")] * 3), Sampling("t", num_samples=1), form="call"
    )
    kept = json.loads(target.read_text().splitlines()[0])["candidates"][0]
    assert (kept["entry_point"], kept["rejected"]) == ("light", None)
    assert kept["statement"].endswith("\n\ndef light(parts) -> int:")


@pytest.mark.parametrize(
    "statement, shows",
    [
        ("Say it.\n\ndef f(a):", False),
        ('Say it.\n```python\ndef f(a: int) -> int:\n    """The number."""\n    ...\n```\nf(1) is 2.', False),
        ("class Solution:\n    def f(self, a):\n        pass\n\nGive a number.", False),
        ("def f(a):\nThe number is given.", False),
        ("```python\ndef f(a):\n    # add one\n    return a + 1\n\nassert f(1) == 2\n```", True),
        ("def f(a):\n    pass\n\nFor example:\n\n    def f(a):\n        b = a\n\n        return b\nThe end.", True),
    ],
)
def test_solutions_in_statements(statement, shows):
    assert has_solution(statement) is shows
