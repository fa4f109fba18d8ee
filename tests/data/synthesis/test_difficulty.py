"""Candidates are run in the real sandbox: which one is kept, and what it becomes."""

import json

import pytest

from codescaler.data.prefer.leakage import HeldOut
from codescaler.data.programs import compute_form
from codescaler.data.sample.sampling import Completion, Sampling
from codescaler.data.synthesis.difficulty import DifficultySettings, judge_problems, leave_out_checks
from codescaler.data.synthesis.emit import choose_example, emit_problems, emit_sft
from codescaler.data.synthesis.inputs import make_inputs, read_calls
from codescaler.errors import InvalidInput
from codescaler.sandbox import Limits, Sandbox
from codescaler.tasks import read_tasks

SETTINGS = DifficultySettings(num_inputs=6, num_generators=1)
SAMPLING = Sampling("tiny", num_samples=4)
LIMITS = {"cpu_seconds": 1}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=4.0), num_workers=1) as sandbox:
        yield sandbox


class Sampler:
    """Answers by what the statement says: programs, one after the other."""

    identity = "a table"

    def __init__(self, table):
        self.table, self.asked = table, []

    def complete(self, requests):
        for request in requests:
            self.asked.append(request.task_id)
            kind = "inputs" if request.task_id.endswith("/inputs") else "solutions"
            programs = next(answers[kind] for word, answers in self.table.items() if word in request.prompt)
            yield [
                Completion(f"```python\n{programs[index % len(programs)]}\n```", "stop")
                for index in range(len(request.seeds))
            ]


def f(body):
    return f"def f(x):\n    return {body}"


CALL_INPUTS = ["f(...)\nf(0)\nassert f(999) == 1\nf(x)\nf([1)\nf(1, 2)\nf(41)"]
TABLE = {
    # Half of the solutions hold an example that is wrong.
    "EASY": {"inputs": CALL_INPUTS, "solutions": [f("x + 1"), f"{f('x + 1')}\n\nassert f(1) == 3"]},
    "HARD": {"inputs": CALL_INPUTS, "solutions": [f("x * x"), f("x * x"), f("x * x"), f("x * x + x % 2")]},
    "BROKEN": {"inputs": CALL_INPUTS, "solutions": [f("x"), f("-x - 1"), f("x / 3.7 + 0.1"), f("str(x)")]},
    "CONSTANT": {"inputs": CALL_INPUTS, "solutions": [f("7")]},
    "STUCK": {"inputs": ["f(True)"], "solutions": [f("x")]},
    "PROSE": {"inputs": CALL_INPUTS, "solutions": [f("x"), "no program here!", "nor here!", "sorry!"]},
    "STDIN": {
        "inputs": ["def generate_input(rng):\n    return f'{rng.randint(0, 99)}'"],
        "solutions": ["print(int(input()) * 2)"] * 3 + ["print(input() * 2)"],
    },
}


def candidate(word, rejected=None, entry_point="f"):
    texts = {"answer": f"{word}!", "statement": f"{word} problem."}
    return {**texts, "entry_point": entry_point, "finish": "stop", "rejected": rejected}


def write_generated(path, *groups):
    seeds = [{"task_id": "s/1", "license": "MIT", "similarity": 0.5}]
    lines = [
        {"task_id": f"walk/0/{number}", "concepts": ["a", "b"], "seeds": seeds, "prompt": "make one",
         "concept_seeds": {"b": ["s/1", "s/2"], "a": ["s/1"]}, "licenses": ["CC-BY-4.0", "MIT"],
         "generator": {"model": "tiny"}, "candidates": group}
        for number, group in enumerate(groups)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def judge(generated, target, sandbox, sampler=None, **options):
    return judge_problems(
        generated, target, sampler or Sampler(TABLE), SAMPLING, sandbox, SETTINGS, limits=LIMITS, **options
    )


def test_the_hardest_that_is_not_broken_is_kept(tmp_path, sandbox):
    words = ("EASY", "HARD", "BROKEN", "CONSTANT", "STUCK", "PROSE")
    generated = write_generated(
        tmp_path / "generated.jsonl", [candidate("X", "it is nearly the seed s/1"), *map(candidate, words)],
        [candidate("STDIN", entry_point=None)], [candidate("BROKEN")], [candidate("HARD")],
    )  # fmt: skip
    target, problems, sft = (tmp_path / f"{name}.jsonl" for name in ("judged", "problems", "sft"))
    counts = judge(generated, target, sandbox)
    first, second, third, _ = (json.loads(line) for line in target.read_text().splitlines())
    assert first["kept"] == 2 and second["kept"] == 0 and third["kept"] is None
    judged = first["candidates"]
    assert judged[1]["delta"] == 0 and 0 < judged[2]["delta"] <= 0.25 and judged[3]["delta"] == 0.75
    odd = sum(int(text) % 2 for text, _, _ in judged[2]["cases"])
    assert judged[2]["delta"] == pytest.approx(odd / 6 / 4, abs=1e-6) and odd > 0
    assert [c["rejected"] for c in judged] == [
        "it is nearly the seed s/1", None, None, "solutions agree on 25%, below the floor of 30%",
        "its answer does not depend on the input", "it has 2 of 6 inputs", "it has 1 of 4 solutions",
    ]  # fmt: skip
    assert counts["kept"] == 3 and counts["below the floor of agreement"] == 2 and counts["near a seed"] == 1

    assert emit_problems(target, problems) == 2  # the last is the first again
    call, program = read_tasks(problems)
    assert sandbox.run(f("x * x"), call.tests).passed and sandbox.run(f("x + 1"), call.tests).passed is False
    assert sandbox.run("print(2 * int(input()))", program.tests).passed
    assert (call.license, call.tags, call.reference, call.task_id) == (
        "CC-BY-4.0 and MIT", ("a", "b"), None, "synth/0/0",
    )  # fmt: skip
    card = json.loads((tmp_path / "problems.jsonl.card.json").read_text())
    assert call.prompt == "HARD problem.\n\nFor example:\n\nassert f(0) == 0"
    given, output = program.prompt.removeprefix("STDIN problem.\n\nExample input:\n").split("\n\nExample output:\n")
    assert int(output) == 2 * int(given)
    assert card["left_out"] == {"another problem of the file, or nearly": 1}
    assert card["problems"] == 2 and card["problems_by_license"] == {"CC-BY-4.0": 2, "MIT": 2}
    assert card["seeds_shown"]["synth/0/0"] == ["s/1"] and card["concepts"]["synth/0/0"] == ["a", "b"]
    assert card["seeds_by_concept"] == {"a": ["s/1"], "b": ["s/1", "s/2"]}

    assert emit_sft(target, sft) == 10
    lines = [json.loads(line) for line in sft.read_text().splitlines()]
    assert [line["task_id"] for line in lines if line["kept"]] == ["walk/0/0/2", "walk/0/1/0", "walk/0/3/0"]
    assert [message["content"] for message in lines[0]["messages"]] == ["make one", "X!"] and lines[0]["rejected"]


def test_a_solution_that_is_a_held_out_reference_is_a_leak(tmp_path, sandbox):
    generated = write_generated(tmp_path / "generated.jsonl", [candidate("HARD")])
    form = compute_form("def other(value):\n    return value * value + value % 2", keeps_names=False)  # of one in four
    held_out = HeldOut(forms={form: "h/7"})
    judge(generated, tmp_path / "judged.jsonl", sandbox, held_out=held_out)
    (record,) = (json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines())
    assert record["candidates"][0]["rejected"] == "a solution is the reference of the held-out h/7"


def test_a_run_that_was_stopped_goes_on(tmp_path, sandbox):
    generated = write_generated(
        tmp_path / "generated.jsonl", [candidate("HARD")], [candidate("EASY"), candidate("X", "r")], [candidate("HARD")]
    )
    whole, target = tmp_path / "whole.jsonl", tmp_path / "judged.jsonl"
    judge(generated, whole, sandbox)
    done = []

    def stop(number):
        done.append(number)
        if len(done) == 2:  # the first call tells of lines that are there already
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(generated, target, sandbox, advance=stop)
    assert (tmp_path / "judged.jsonl.partial").read_text().count("\n") == 1
    rest = Sampler(TABLE)
    judge(generated, target, sandbox, rest)
    assert rest.asked[0] == "walk/0/1/0/inputs" and len(rest.asked) == 4
    assert target.read_bytes() == whole.read_bytes()


def test_a_problem_that_is_nearly_another_one_is_left_out(tmp_path, sandbox):
    texts = [f"HARD. Return the square of a whole number that is {word} than the largest one." for word in "abcdefgh"]
    own = [{**candidate("HARD"), "statement": text} for text in texts]
    generated = write_generated(tmp_path / "generated.jsonl", *([each] for each in own))
    judge(generated, tmp_path / "judged.jsonl", sandbox)
    lines = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["candidates"][0]["solution"] = f"def f(x):\n    return {number}"
    (tmp_path / "judged.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert emit_problems(tmp_path / "judged.jsonl", tmp_path / "problems.jsonl") == 1


def test_the_example_is_short_and_agreed_on():
    cases = [("1" * 50, "2", 1.0), ("3", "4", 0.95), ("5", "", 0.8)]
    assert choose_example(cases) == ("3", "4")


@pytest.mark.parametrize(
    "text, inputs",
    [
        ("f(1)\nprint(f(2))\nf(1)\n# f(3)\nf(1, 2)", ["1", "2"]),
        ("f(...)\nf([1, ..., 9])\nf(1e999)\nf({'a'})\nf(b'a')\nf(3, x=[4.5])", ["3, x=[4.5]"]),
        ("f()\nf(x)\nf(f(1))", None),
    ],
)
def test_calls_are_read(text, inputs):
    examples = read_calls(text, "f")
    assert (examples and list(map(examples.write, examples.calls))) == inputs


def test_inputs_are_distinct_and_take_turns(sandbox):
    programs = [
        "def generate_input(rng):\n    return (rng.randint(0, 3), 'a')",
        "import time\ndef generate_input(rng):\n    print('noise')\n    return [[], None]",
        "def generate_input(rng):\n    return 'text'", "def generate_input(): return (1,)", "def generate_input(:",
    ]  # fmt: skip
    inputs = make_inputs(sandbox, programs, 8, 0, is_call=True)
    assert inputs[1] == "[], None" and set(inputs) <= {f"{n}, 'a'" for n in range(4)} | {"[], None"}
    assert inputs == make_inputs(sandbox, programs, 8, 0, is_call=True) and len(inputs) == len(set(inputs))
    assert make_inputs(sandbox, programs, 8, 0, is_call=False) == ["text\n"]


@pytest.mark.parametrize(
    "settings", [{"num_inputs": 0}, {"num_generators": 0}, {"floor": 1.1}, {"min_share": -0.1}], ids=str
)
def test_bad_settings(settings):
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        DifficultySettings(**settings)


def test_a_line_of_another_kind_is_refused(tmp_path, sandbox):
    path = tmp_path / "generated.jsonl"
    path.write_text(json.dumps({"task_id": "w", "candidates": [{"statement": 3}]}))
    with pytest.raises(InvalidInput, match="line 1 is not a line of `codescaler data synth generate`"):
        judge(path, tmp_path / "judged.jsonl", sandbox)


@pytest.mark.parametrize(
    "code, without",
    [
        (
            "def f(x):\n    assert x\n    return x\n\nassert f(\n    1\n) == 2\nY = 1",
            "def f(x):\n    assert x\n    return x\n\n\n\n\nY = 1",
        ),
        ("Y = 1; assert Y == 2", "Y = 1; assert Y == 2"),
        ("assert (", "assert ("),
    ],
)
def test_checks_beside_functions_are_left_out(code, without):
    assert leave_out_checks(code) == without
