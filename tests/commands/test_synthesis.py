"""`codescaler data synth` from seeds to problems, with a server that answers and the real sandbox."""

import json
import random
import re

import pytest

from codescaler import cli
from codescaler.tasks import make_task_record, read_tasks
from codescaler.testing.chat_server import make_completion, serving
from codescaler.types import CallTests, Task

WORDS = ["bees", "clocks", "wheels", "tiles", "snow", "roofs", "rain", "walls", "over", "under", "while"]


def run(*arguments):
    return cli.main(["data", "synth", *map(str, arguments)])


def respond(body):
    asked = body["messages"][0]["content"]
    if "topics and the knowledge points" in asked:
        return make_completion('{"topics": ["Math", "Number theory"], "knowledge_points": ["parity"]}')
    if "examples of legal inputs" in asked:
        return make_completion("```python\nsquare(3)\nsquare(1000)\nsquare(44)\n```")
    if "Invent a new programming problem" in asked:
        story = " ".join(random.Random(body["seed"]).choices(WORDS, k=30))
        statement = f"{story}. Return the square of x, from 0 to 1000, modulo {body['seed'] % 900 + 99}."
        return make_completion(json.dumps({"statement": statement, "signature": "def square(x):"}))
    number = re.search(r"modulo (\d+)", asked)[1]
    extra = "x % 2" if body["seed"] % 3 else "0"
    return make_completion(f"```python\ndef square(x):\n    return x * x % {number} + {extra}\n```")


@pytest.fixture(autouse=True)
def seeds(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.chdir(tmp_path)
    rows = [
        {"question": f"Count the {word} of a garden by the rule of {word}.", "input_output": "", "difficulty": "HARD",
         "tags": "['Math', 'Counting']", "skill_types": "['Sorting']"}
        for word in ("bees", "ants", "frogs")
    ]  # fmt: skip
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("has_model", [False, True])
def test_from_seeds_to_problems(tmp_path, capsys, has_model):
    with serving(respond) as (url, asked):
        model = ("--endpoint", url, "--model", "tiny")
        assert run("concepts", "seeds.jsonl", "-o", "concepts.jsonl", *(model if has_model else ())) == 0
        assert run("graph", "concepts.jsonl", "-o", "graph.jsonl", "--alpha", 0.3) == 0
        said = capsys.readouterr().err
        assert "3 seeds" in said and "graph.jsonl: 3 concepts, 3 pairs" in said
        assert run("walk", "graph.jsonl", "-o", "walks.jsonl", "--n", 3, "--seed", 1) == 0
        assert (
            run("generate", "walks.jsonl", "concepts.jsonl", "-o", "new.jsonl", *model, "--n", 2, "--form", "call") == 0
        )
        assert "3 walks, 6 candidates" in capsys.readouterr().err
        emit = ("--emit-problems", "problems.jsonl", "--emit-sft", "sft.jsonl")
        small = ("--n", 5, "--inputs", 6, "--cpu-seconds", 2)
        assert run("difficulty", "new.jsonl", "-o", "judged.jsonl", *model, *emit, *small) == 0
        said = capsys.readouterr().err
        assert "judged.jsonl: 3 walks, 6 candidates, 6 left, 3 kept" in said
        assert "problems.jsonl: 3 problems" in said and "sft.jsonl: 6 conversations" in said
        assert len(asked) == 3 * has_model + 3 * 2 + 6 * (2 + 5)
    problems = read_tasks("problems.jsonl")
    assert len(problems) == 3 and all(task.tests.entry_points == ("square",) for task in problems)
    records = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    assert all(record["candidates"][record["kept"]]["delta"] < 0.7 for record in records)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("concepts", "seeds.jsonl", "--endpoint", "http://localhost:1"), "--endpoint without --model"),
        (("concepts", "absent.jsonl"), "absent.jsonl cannot be read"),
        (("graph", "seeds.jsonl"), "is not a line of `codescaler data synth concepts`"),
        (("walk", "seeds.jsonl"), "is not a line of `codescaler data synth graph`"),
        (
            ("generate", "seeds.jsonl", "seeds.jsonl", "--model", "m"),
            "is not a line of `codescaler data synth concepts`",
        ),
        (("difficulty", "seeds.jsonl", "--model", "absent"), "is no folder"),
        (("difficulty", "seeds.jsonl", "--model", "m", "--inputs", "0"), "num_inputs 0"),
        (("difficulty", "seeds.jsonl", "--model", "m", "--emit-sft", "seeds.jsonl"), "is there already"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(tmp_path, capsys, arguments, message):
    assert run(*arguments, "-o", "out.jsonl") == 2
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err
    assert not (tmp_path / "out.jsonl").exists()


def test_solutions_become_suites(tmp_path, capsys):
    task = Task("t/1", "Return the square.", CallTests(("assert sq(3) == 9", "assert sq(4) == 16"), ("sq",)))
    (tmp_path / "tasks.jsonl").write_text(json.dumps(make_task_record(task)))
    candidates = [{"code": f"def sq(x):\n    return {body}"} for body in ("x * x", "x ** 2", "x + x")]
    group = {"task_id": "t/1", "prompt": task.prompt, "candidates": candidates}
    (tmp_path / "groups.jsonl").write_text(json.dumps(group))
    files = ("suites", "tasks.jsonl", "groups.jsonl", "-o")
    assert run(*files, "suites.jsonl", "--inputs", 8, "--cpu-seconds", 1) == 0
    assert "suites.jsonl: 1 problems, 1 suites" in capsys.readouterr().err
    (made,) = read_tasks("suites.jsonl")
    assert made.tests.statements[0].startswith("assert _same(sq(")
    assert run(*files, "out.jsonl", "--endpoint", "http://localhost:1") == 2
    assert "--endpoint without --model" in capsys.readouterr().err
    assert run(*files, "out.jsonl", "--min-share", 2) == 2
    assert "min_share 2.0" in capsys.readouterr().err
