"""`codescaler data` from tasks to a trained head, with a sandbox that knows each program's verdict."""

import json
import sys
import types
from dataclasses import dataclass

import pytest

from codescaler import cli
from codescaler.errors import SandboxUnavailable
from codescaler.records import read_groups
from codescaler.testing import save_chat, save_random_checkpoint
from codescaler.testing.chat_server import completion, serving
from codescaler.types import CallTests, Task, Verdict

WORDS = ("amber", "birch", "cedar", "daisy", "elder", "fern")
TASKS = [
    Task(f"t/{index}", f"Return {word} {word} {word}", CallTests(("assert f()",) * 5), "reference", split="train")
    for index, word in enumerate(WORDS)
]


@dataclass(frozen=True)
class Limits:
    cpu_seconds: float = 5.0
    wall_seconds: float = 15.0


class Sandbox:
    """Says of "return True" that it passes, and of the reference."""

    isolation = "namespaces, pretended"

    def __init__(self, limits, *, floor, num_workers, allow_site_packages):
        if floor == "gvisor":
            raise SandboxUnavailable("no gvisor here; ask for a lower floor")
        self.limits = limits

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run_many(self, jobs):
        for code, tests in jobs:
            outcome = "passed" if code == "reference" or "True" in code else "failed"
            yield Verdict((outcome,) * len(tests.statements))


@pytest.fixture(autouse=True)
def neighbours(monkeypatch):
    """Stand-ins for the readers of tasks and for the sandbox, which these tests are not about."""
    tasks, sandbox = types.ModuleType("codescaler.tasks"), types.ModuleType("codescaler.sandbox")
    tasks.read_tasks = lambda path, format="auto": TASKS
    sandbox.Limits, sandbox.Sandbox = Limits, Sandbox
    monkeypatch.setitem(sys.modules, "codescaler.tasks", tasks)
    monkeypatch.setitem(sys.modules, "codescaler.sandbox", sandbox)
    monkeypatch.setenv("no_proxy", "*")


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def program(body):
    return completion(f"```python\ndef f():\n    return {body['seed'] % 2 == 1}\n```")


def test_from_tasks_to_a_fitted_head(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CODESCALER_API_KEY", "key")
    groups, labelled, pairs = (tmp_path / f"{name}.jsonl" for name in ("groups", "labelled", "pairs"))
    with serving(program) as (url, asked):
        options = ("--endpoint", url, "--model", "tiny", "--n", 6, "--max-tokens", 50, "--seed", 1)
        assert run("data", "sample", tmp_path / "tasks", "-o", groups, *options) == 0
    assert len(asked) == 36
    assert asked[0][1]["Authorization"] == "Bearer key"
    assert "36 completions for 6 problems, of which 0 hold no program" in capsys.readouterr().err
    assert run("data", "label", groups, tmp_path / "tasks", "-o", labelled, "--cpu-seconds", 2) == 0
    said = capsys.readouterr().err
    assert "isolation: namespaces, pretended" in said and "programs/s" in said
    assert json.loads(labelled.read_text().splitlines()[0])["verifier"]["cpu_seconds"] == 2
    assert run("data", "pairs", labelled, "-o", pairs, "--held-out", "t/0,t/99") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "pairs.jsonl: 5 correctness pairs. Left out:" in said.err and "1 problems held out" in said.err
    assert "namespaces, pretended: 5" in (tmp_path / "pairs.jsonl.card.md").read_text()
    assert [group.task_id for group in read_groups(pairs)] == ["t/1", "t/2", "t/3", "t/4", "t/5"]
    save_random_checkpoint(tmp_path / "lm", "llama", "CausalLM", vocab_size=300)
    save_chat(tmp_path / "lm")
    assert run("fit-head", tmp_path / "lm", pairs, "-o", tmp_path / "rm", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_pairs"] == 5


def test_a_folder_is_sampled_from(tmp_path, capsys):
    save_random_checkpoint(tmp_path / "lm", "llama", "CausalLM", vocab_size=258, pad_token_id=257, eos_token_id=257)
    save_chat(tmp_path / "lm")
    target = tmp_path / "groups.jsonl"
    options = ("--model", tmp_path / "lm", "--n", 2, "--max-tokens", 5, "--limit", 2, "--split", "train")
    assert run("data", "sample", tmp_path / "tasks", "-o", target, *options) == 0
    records = [json.loads(line) for line in target.read_text().splitlines()]
    assert [len(record["candidates"]) for record in records] == [2, 2]
    assert records[0]["generator"]["model"] == "lm"
    assert "4 completions for 2 problems, of which 4 hold no program" in capsys.readouterr().err


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "labelled.jsonl"
    candidates = [
        {"code": f"x = {passed}", "passed": passed, "passed_tests": 5 * passed + 2, "num_tests": 7}
        for passed in (True, False)
    ]
    path.write_text(json.dumps({"task_id": "t/1", "prompt": "p", "candidates": candidates}))
    return path


def test_options_of_pairs_reach_the_records(labelled, tmp_path):
    human = tmp_path / "human.jsonl"
    human.write_text(json.dumps({"prompt": "q", "chosen": "x = 1", "rejected": "x = 2"}))
    target = tmp_path / "out.jsonl"
    options = ("--rule", "acecoder", "--margin", "correctness=0.5", "--human", human, "--min-tests", 7)
    assert run("data", "pairs", labelled, "-o", target, *options) == 0
    records = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(record["aspect"], record["margin"]) for record in records] == [("correctness", 0.5), ("human", 0.0)]


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("sample", "tasks", "--model", "m", "--endpoint", "localhost"), 2, "give an address"),
        (("sample", "tasks", "--model", "absent"), 2, "is no folder"),
        (("sample", "tasks", "--model", "m", "--split", "test"), 2, "there are train"),
        (("label", "labelled.jsonl", "tasks", "--floor", "gvisor"), 4, "no gvisor here"),
        (("pairs", "labelled.jsonl", "--margin", "correctness"), 2, "--margin 'correctness'"),
        (("pairs", "labelled.jsonl", "--held-out", "t/1", "--on-leak", "refuse"), 2, "1 problems are held out"),
        (("pairs", "labelled.jsonl", "--aspect", "efficiency"), 2, "has cost_seconds"),
        (("pairs", "absent.jsonl"), 2, "absent.jsonl cannot be read"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(labelled, tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    assert run("data", *arguments, "-o", "out.jsonl") == code
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_server_that_does_not_answer_is_an_exit_code(tmp_path, capsys, monkeypatch):
    from codescaler.data.endpoint import Endpoint

    patient = Endpoint.__init__
    monkeypatch.setattr(
        Endpoint, "__init__", lambda self, *rest, **options: patient(self, *rest, **options, num_tries=1)
    )
    with serving(lambda _: (503, "", {})) as (url, _):
        command = (
            "data",
            "sample",
            tmp_path / "tasks",
            "-o",
            tmp_path / "out.jsonl",
            "--model",
            "m",
            "--endpoint",
            url,
        )
        assert run(*command) == 4
    assert "it answered 503" in capsys.readouterr().err


def test_an_output_that_is_there_is_refused(labelled, capsys):
    assert run("data", "pairs", labelled, "-o", labelled) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_step_is_asked_for():
    with pytest.raises(SystemExit) as stop:
        run("data")
    assert stop.value.code == 2
