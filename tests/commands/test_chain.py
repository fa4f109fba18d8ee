"""The commands of the docs one after the other, on one set of files, without an edit in between."""

import json

import pytest

from codescaler import cli
from codescaler.testing import save_chat, save_random_checkpoint
from codescaler.testing.chat_server import make_completion, serving

ADD = {
    "tests": {"statements": [f"assert add({n}, 2) == {n + 2}" for n in range(3)], "entry_points": ["add"]},
    "reference": "def add(a, b):\n    return a + b",
}
PRINT = {"tests": {"cases": [["2 3\n", "5\n"]], "prelude": "import math\n", "comparison": "livecodebench"}}
# What files hold beside good problems: a line that is no JSON, a doubled problem, one without tests, one whose tests
# cannot judge, one whose reference is wrong.
PROBLEMS = [
    {"task_id": "c/0", "prompt": "Add with a function.", "split": "train", **ADD},
    {"task_id": "c/1", "prompt": "Add in another function.", "split": "train", **ADD},
    "{",
    {"task_id": "c/1", "prompt": "Add in another function.", "split": "train", **ADD},
    {"task_id": "c/2", "prompt": "Read two numbers, and print the sum.", "split": "train", **PRINT},
    {"task_id": "c/3", "prompt": "No tests.", "split": "train", "tests": None},
    {"task_id": "c/4", "prompt": "Add.", "split": "train", "tests": ADD["tests"] | {"setup": "import absent_package"}},
    {"task_id": "c/5", "prompt": "Add badly.", "split": "train", **ADD, "reference": "def add(a, b): return 0"},
]
PROGRAMS = [
    "def add(a, b):\n    return a + b\nif __name__ == '__main__':\n    print(add(*map(int, input().split())))",
    "def add(a, b):\n    return a - b\nif __name__ == '__main__':\n    print(add(*map(int, input().split())))",
    "def add(a, b:",
]


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def complete(body):
    return make_completion(f"So:\n~~~python\n{PROGRAMS[body['seed'] % 3]}\n~~~\nIt prints:\n```\n5\n```\n")


@pytest.fixture(autouse=True)
def local(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def test_from_problems_to_a_calibrated_model(tmp_path, capsys):
    problems, groups, labelled, pairs, figures = (
        tmp_path / name for name in ("problems.jsonl", "groups.jsonl", "labelled.jsonl", "pairs.jsonl", "bon.json")
    )
    lines = [problem if isinstance(problem, str) else json.dumps(problem) for problem in PROBLEMS]
    problems.write_text("\n".join(lines))
    with serving(complete) as (url, _):
        options = ("--endpoint", url, "--model", "tiny", "--n", 16, "--extract", "markdown", "--seed", 3)
        assert run("data", "sample", problems, "-o", groups, *options) == 0
    said = capsys.readouterr().err
    assert "6 problems; 2 records are left out" in said and "line 3 is not JSON" in said and "line 4: task_id" in said
    assert run("data", "label", groups, problems, "-o", labelled) == 0
    records = [json.loads(line) for line in labelled.read_text().splitlines()]
    verdicts = [{candidate["passed"] for candidate in record["candidates"] if candidate["code"]} for record in records]
    assert verdicts == [{True, False}, {True, False}, {True, False}, {None}, {None}, {None}]
    assert run("data", "pairs", labelled, "-o", pairs) == 0
    save_random_checkpoint(tmp_path / "lm", "llama", "CausalLM", vocab_size=300)
    save_chat(tmp_path / "lm")
    assert run("fit-head", tmp_path / "lm", pairs, "-o", tmp_path / "head") == 0
    assert run("train", tmp_path / "head", pairs, "-o", tmp_path / "run", "--max-steps", 1) == 0
    model = tmp_path / "run" / "model"
    capsys.readouterr()
    assert run("eval", "bon", labelled, "--rm", model, "--by", "none", "--json", figures) == 0
    assert "unjudged programs" in capsys.readouterr().err
    measured = json.loads(figures.read_text())["figures"]
    assert measured["num_groups"] == measured["num_mixed"] == 3
    assert measured["left_out"]["unlabelled_groups"] == 3
    assert run("eval", "calibration", labelled, "--model", model, "-o", model / "calibration.json") == 0
    assert run("rerank", labelled, "--model", model, "--json") == 0
    ranked = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(ranked) == 6 and ranked[0]["calibrated_on"]["num_problems"] == 3
