"""`codescaler data` from tasks to a trained head, in the real sandbox."""

import dataclasses
import json

import pytest

from codescaler import cli
from codescaler.commands import data_options
from codescaler.io.records import read_groups
from codescaler.sandbox import Limits, sandbox
from codescaler.tasks import make_task_record, read_tasks
from codescaler.testing import save_chat, save_random_checkpoint
from codescaler.testing.chat_server import make_completion, serving
from codescaler.types import CallTests, Task

WORDS = ("amber", "birch", "cedar", "daisy", "elder", "fern")
REFERENCE = "def f(n=3):\n    return n > 1"
TASKS = [
    Task(
        f"t/{index}", f"Return {word} {word} {word}",
        CallTests(("assert f(3)", "assert f(4)", "assert f(2)", "assert f(7)", "assert f(9)"), ("f",)),
        REFERENCE, split="train",
    )
    for index, word in enumerate(WORDS)
]  # fmt: skip


@pytest.fixture(autouse=True)
def tasks(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(make_task_record(task)) + "\n" for task in TASKS))
    return path


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def program(body):
    return make_completion(f"```python\ndef f(n):\n    return {body['seed'] % 2 == 1}\n```")


def test_from_tasks_to_a_fitted_head(tasks, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CODESCALER_API_KEY", "key")
    groups, labelled, pairs = (tmp_path / f"{name}.jsonl" for name in ("groups", "labelled", "pairs"))
    with serving(program) as (url, asked):
        options = ("--endpoint", url, "--model", "tiny", "--n", 6, "--max-tokens", 50, "--seed", 1)
        assert run("data", "sample", tasks, "-o", groups, *options) == 0
    assert len(asked) == 36
    assert asked[0][1]["Authorization"] == "Bearer key"
    assert "36 completions for 6 problems, of which 0 hold no program" in capsys.readouterr().err
    assert run("data", "label", groups, tasks, "-o", labelled, "--cpu-seconds", 2) == 0
    said = capsys.readouterr().err
    assert "programs/s; 0 references fail their own tests; isolation: " in said
    verifier = json.loads(labelled.read_text().splitlines()[0])["verifier"]
    assert verifier["cpu_seconds"] == 2
    assert f"isolation: {verifier['isolation']}" in said
    assert run("data", "pairs", labelled, "-o", pairs, "--held-out", "t/0,t/99") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "pairs.jsonl: 5 correctness pairs. Left out:" in said.err and "1 problems held out" in said.err
    assert f"{verifier['isolation']}: 5" in (tmp_path / "pairs.jsonl.card.md").read_text()
    assert [group.task_id for group in read_groups(pairs)] == ["t/1", "t/2", "t/3", "t/4", "t/5"]
    save_random_checkpoint(tmp_path / "lm", "llama", "CausalLM", vocab_size=300)
    save_chat(tmp_path / "lm")
    assert run("fit-head", tmp_path / "lm", pairs, "-o", tmp_path / "rm", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_pairs"] == 5


def test_a_folder_is_sampled_from(tasks, tmp_path, capsys):
    save_random_checkpoint(tmp_path / "lm", "llama", "CausalLM", vocab_size=258, pad_token_id=257, eos_token_id=257)
    save_chat(tmp_path / "lm")
    target = tmp_path / "groups.jsonl"
    options = ("--model", tmp_path / "lm", "--n", 2, "--max-tokens", 5, "--limit", 2, "--split", "train")
    assert run("data", "sample", tasks, "-o", target, *options) == 0
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
        (("sample", "tasks.jsonl", "--model", "m", "--endpoint", "localhost"), 2, "give an address"),
        (("sample", "tasks.jsonl", "--model", "absent"), 2, "is no folder"),
        (("sample", "tasks.jsonl", "--model", "m", "--split", "test"), 2, "there are train"),
        (("sample", "tasks.jsonl", "--model", "m", "--difficulty", "easy"), 2, "the difficulty 'easy'; there are None"),
        (("label", "labelled.jsonl", "tasks.jsonl", "--floor", "gvisor"), 2, "isolation 'gvisor' is not known"),
        (("label", "labelled.jsonl", "tasks.jsonl", "--cpu-seconds", "0"), 2, "cpu_seconds is 0"),
        (("cost", "labelled.jsonl", "tasks.jsonl", "--rounds", "2"), 2, "num_rounds=2; fewer than 5"),
        (("tests", "labelled.jsonl"), 2, "none of these sets"),
        (("pairs", "labelled.jsonl", "--margin", "correctness"), 2, "--margin 'correctness'"),
        (("pairs", "labelled.jsonl", "--held-out", "t/1", "--on-leak", "refuse"), 2, "1 problems are held out"),
        (("pairs", "labelled.jsonl", "--aspect", "efficiency"), 2, "has cost_seconds"),
        (("pairs", "absent.jsonl"), 2, "absent.jsonl cannot be read"),
        (("augment", "labelled.jsonl", "--rewrite", "golfed"), 2, "rewrite 'golfed' is not known; use one of renamed"),
        (("augment", "labelled.jsonl", "--copies", "0"), 2, "--copies 0"),
        (("augment", "labelled.jsonl", "--max-rewrites", "0"), 2, "--max-rewrites 0"),
        (("negatives", "labelled.jsonl", "--kind", "empty"), 2, "kind 'empty' is not known; use one of other"),
        (("negatives", "labelled.jsonl", "--n", "0"), 2, "--n 0"),
        (("audit", "tasks.jsonl", "--report", "r.pdf"), 2, "give a name that ends in .md or .html"),
        (("audit", "tasks.jsonl", "--mutants", "-1"), 2, "num_mutants -1"),
        (("pairs", "labelled.jsonl", "--min-weight", "2"), 2, "min_weight 2.0"),
        (("label", "labelled.jsonl", "tasks.jsonl", "--audit", "labelled.jsonl"), 2, "`codescaler data audit`"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(labelled, tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    assert run("data", *arguments, "-o", "out.jsonl") == code
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("step", [("augment",), ("negatives",), ("cost",)])
def test_programs_without_a_verdict_are_named(labelled, tmp_path, capsys, step):
    plain, given = tmp_path / "plain.jsonl", ("tasks.jsonl",) if step == ("cost",) else ()
    groups = [json.loads(line) for line in labelled.read_text().splitlines()]
    for group in groups:
        for candidate in group["candidates"]:
            candidate.pop("passed", None)
    plain.write_text("".join(json.dumps(group) + "\n" for group in groups))
    assert run("data", *step, plain, *given, "-o", tmp_path / "out.jsonl") == 2
    assert "plain.jsonl has no program with a verdict; run `codescaler data label` on it" in capsys.readouterr().err
    plain.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    assert run("data", *step, plain, *given, "-o", tmp_path / "out.jsonl") == 2
    assert "data label" not in capsys.readouterr().err  # pairs have verdicts


def test_a_host_that_cannot_isolate_is_an_exit_code(labelled, tasks, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sandbox, "explain_missing", lambda isolation: "is not to be had")
    assert run("data", "label", labelled, tasks, "-o", tmp_path / "out.jsonl") == 4
    assert "namespaces: is not to be had). Install bubblewrap" in capsys.readouterr().err


def test_costs_become_preferences(tasks, tmp_path, capsys):
    groups, labelled, measured, pairs = (tmp_path / f"{name}.jsonl" for name in ("groups", "labels", "costs", "pairs"))
    quick, slow = "def f(n): return n > 1", "def f(n):\n    for _ in range(5000): pass\n    return n > 1"
    candidates = [{"code": code} for code in (slow, quick, "def f(n): return n > 2", slow)] + [{"code": None}]
    groups.write_text(json.dumps({"task_id": "t/1", "prompt": "p", "candidates": candidates}))
    assert run("data", "label", groups, tasks, "-o", labelled) == 0
    assert run("data", "cost", labelled, tasks, "-o", measured, "--workers", 1) == 0
    assert "measured 2 programs of problems with two that passed, in 5 rounds; 0 did not" in capsys.readouterr().err
    (record,) = (json.loads(line) for line in measured.read_text().splitlines())
    costs = [candidate.get("cost_seconds") for candidate in record["candidates"]]
    assert costs[0] == costs[3] and costs[2] is None and costs[4] is None
    assert len(costs[1]) == 5 and max(costs[1]) < min(costs[0])
    assert run("data", "pairs", measured, "-o", pairs, "--aspect", "efficiency") == 0
    (pair,) = (json.loads(line) for line in pairs.read_text().splitlines())
    assert (pair["chosen"], pair["rejected"], pair["aspect"]) == (quick, slow, "efficiency")
    assert pair["evidence"]["chosen_seconds"] == costs[1]


def test_more_tests(tasks, tmp_path, capsys):
    target = tmp_path / "more.jsonl"
    assert run("data", "tests", tasks, "-o", target, "--n", 3) == 0
    made = read_tasks(target)
    assert [len(task.tests.statements) for task in made] == [3] * 6
    assert f"more.jsonl: {3 * 6} tests for 6 of 6 problems" in capsys.readouterr().err
    assert run("data", "tests", tasks, "-o", target) == 2


def test_a_server_that_does_not_answer_is_an_exit_code(tasks, tmp_path, capsys, monkeypatch):
    from codescaler.data.sample.endpoint import Endpoint

    patient = Endpoint.__init__
    monkeypatch.setattr(
        Endpoint, "__init__", lambda self, *rest, **options: patient(self, *rest, **options, num_tries=1)
    )
    with serving(lambda _: (503, "", {})) as (url, _):
        command = (
            "data",
            "sample",
            tasks,
            "-o",
            tmp_path / "out.jsonl",
            "--model",
            "m",
            "--endpoint",
            url,
        )
        assert run(*command) == 4
    assert "it answered 503" in capsys.readouterr().err


def test_augmented_groups_are_trained_on(tmp_path, capsys):
    groups, larger = tmp_path / "groups.jsonl", tmp_path / "larger.jsonl"
    candidates = [{"code": f"def f(n):\n    m = n + {k}\n    return m", "passed": k == 1} for k in range(3)]
    lines = [json.dumps({"task_id": i, "prompt": f"Add {i}.", "candidates": candidates}) for i in range(6)]
    groups.write_text("\n".join(lines))
    assert run("data", "augment", groups, "-o", larger, "--copies", 2, "--rewrite", "renamed", "--seed", 3) == 0
    assert "larger.jsonl: 6 groups; added or passed over: 36 renamed" in capsys.readouterr().err
    assert [len(group.candidates) for group in read_groups(larger)] == [9] * 6
    save_random_checkpoint(tmp_path / "lm", "llama", "CausalLM", vocab_size=300)
    save_chat(tmp_path / "lm")
    assert run("fit-head", tmp_path / "lm", larger, "-o", tmp_path / "rm", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_pairs"] == 6 * 3 * 6


def test_negatives_are_trained_on(tmp_path, capsys):
    groups, larger = tmp_path / "groups.jsonl", tmp_path / "larger.jsonl"
    lines = [
        {"task_id": i, "prompt": f"Do it.\nassert f{i}(1) == {i}", "candidates": [{"code": code, "passed": True}]}
        for i in range(6)
        for code in [f"def f{i}(n):\n    return n * {i}"]
    ]
    groups.write_text("\n".join(map(json.dumps, lines)))
    assert run("data", "negatives", groups, "-o", larger, "--kind", "none", "--kind", "renamed", "--n", 2) == 0
    assert "larger.jsonl: 6 groups; added or passed over: " in capsys.readouterr().err
    save_random_checkpoint(tmp_path / "lm", "llama", "CausalLM", vocab_size=300)
    save_chat(tmp_path / "lm")
    assert run("fit-head", tmp_path / "lm", larger, "-o", tmp_path / "rm", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_pairs"] == 6 * 2


def test_an_output_that_is_there_is_refused(labelled, capsys):
    assert run("data", "pairs", labelled, "-o", labelled) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_step_is_asked_for():
    with pytest.raises(SystemExit) as stop:
        run("data")
    assert stop.value.code == 2


def test_every_limit_has_an_option():
    """They are named twice, since importing the sandbox is put off until it is needed."""
    assert [*data_options._LIMITS] == [field.name for field in dataclasses.fields(Limits)]


def test_an_audit_weights_labels(tasks, tmp_path, capsys):
    groups, audit, labelled, pairs = (tmp_path / f"{name}.jsonl" for name in ("groups", "audit", "labels", "pairs"))
    candidates = [
        {"code": code, "passed": passed} for code, passed in ((REFERENCE, True), ("def f(n): return 1", False))
    ]
    lines = [json.dumps({"task_id": f"t/{n}", "prompt": TASKS[n].prompt, "candidates": candidates}) for n in (0, 1)]
    groups.write_text("\n".join(lines))
    reports = [tmp_path / name for name in ("report.md", "report.html")]
    options = ("--programs", groups, "--limit", 2, "--cpu-seconds", 1, "--mutants", 4, "--json")
    assert run("data", "audit", tasks, "-o", audit, *options, "--report", reports[0], "--report", reports[1]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert (summary["suites"], summary["true_positive_rate"], summary["true_negative_rate"]) == (2, 1.0, 0.0)
    assert "audit.jsonl: 2 suites" in said.err
    assert reports[0].read_text().startswith("# Audit of tasks") and reports[1].read_text().startswith(
        "<!doctype html>"
    )
    assert run("data", "label", groups, tasks, "-o", labelled, "--audit", audit, "--cpu-seconds", 1) == 0
    record = json.loads(labelled.read_text().splitlines()[0])
    trust = json.loads(audit.read_text().splitlines()[0])["trust"]
    assert [candidate["passed"] for candidate in record["candidates"]] == [True, True]
    assert [candidate["weight"] for candidate in record["candidates"]] == [trust["tnr"]] * 2
    assert 0 < trust["tnr"] < 0.9 < 1
    capsys.readouterr()
    assert run("data", "pairs", labelled, "-o", pairs, "--min-weight", 0.95) == 0
    assert "4 programs of weak suites" in capsys.readouterr().err and pairs.read_text() == ""
