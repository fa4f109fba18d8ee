"""The command line: what it prints, where, and with which exit code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from codescaler import cli
from codescaler.checkpoint.download import PACKAGED_MODEL
from codescaler.commands.options import parse_models
from codescaler.commands.score_file import make_settings
from codescaler.engine import Engine
from codescaler.errors import InvalidInput
from codescaler.evaluate.calibration import read_calibration
from codescaler.testing import save_chat, save_random_checkpoint

PROBLEM = "Write a function to add two numbers.\nReturn the sum."
PROGRAMS = {
    "a.py": "def add(a, b):\n    return a + b\n",
    "b.py": "def add(a, b:\n",
    "c.py": "def add(a, b):\n    return a",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rm")
    save_random_checkpoint(path, "qwen3", vocab_size=300, pad_token_id=299)
    save_chat(path)
    return path


@pytest.fixture
def files(tmp_path):
    """A problem, its candidates, and a file of groups of them with verdicts."""
    (tmp_path / "problem.md").write_text(PROBLEM)
    for name, code in PROGRAMS.items():
        (tmp_path / name).write_text(code)
    candidates = [{"code": code, "passed": name == "a.py"} for name, code in PROGRAMS.items()]
    group = {"task_id": "t/1", "prompt": PROBLEM, "candidates": [*candidates, {"code": None, "passed": False}]}
    (tmp_path / "groups.jsonl").write_text(json.dumps(group) + "\n")
    return tmp_path


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def expected_order(folder):
    ranked = Engine.from_pretrained(folder).rerank(PROBLEM, list(PROGRAMS.values()))
    return [candidate.index for candidate in ranked], {candidate.index: candidate.score for candidate in ranked}


def test_rerank_shows_a_table(folder, files, capsys):
    assert run("rerank", "--model", folder, files / "problem.md", *(files / name for name in PROGRAMS)) == 0
    lines = capsys.readouterr().out.splitlines()
    order, scores = expected_order(folder)
    assert lines[0].endswith("problem.md: Write a function to add two numbers.")
    assert lines[1].split() == ["rank", "score", "behind", "program"]
    for line, index in zip(lines[2:5], order, strict=True):
        assert f"{scores[index]:.3f}" in line
        assert line.endswith([*PROGRAMS][index])
        assert ("invalid: does not parse" in line) == (index == 1)
    assert order[2] == 1
    first, second = (scores[index] for index in order[:2])
    assert f"  {first - second:.3f}  " in lines[3]
    assert lines[2].count("\u2588") == 20
    assert lines[6].endswith(f"codescaler eval calibration GROUPS --model {folder} -o {folder / 'calibration.json'}")


def test_rerank_of_groups_shows_verdicts_and_a_summary(folder, files, capsys):
    assert run("rerank", "--model", folder, files / "groups.jsonl", "--top-k", 2) == 0
    out = capsys.readouterr().out
    order, _ = expected_order(folder)
    assert out.count("candidate 0: ... return a + b") == out.count("candidate 2: ... return a\n") == 1
    assert ("passed" in out.splitlines()[2]) == (order[0] == 0)
    share = "100%" if order[0] == 0 else "0%"
    assert f"1 problems. The program ranked first passes its tests in {share} of them" in out
    assert "drawn from\nthose that parse in 50%; some candidate does in 100%." in out


def test_rerank_as_json(folder, files, capsys):
    assert run("rerank", "--model", folder, files / "groups.jsonl", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    order, scores = expected_order(folder)
    assert record["task_id"] == "t/1"
    assert [entry["index"] for entry in record["ranking"]] == [*order, 3]
    assert [entry["score"] for entry in record["ranking"]] == [*(scores[index] for index in order), None]
    assert [entry["is_valid"] for entry in record["ranking"]] == [True, True, False, False]
    assert [entry["invalid_because"] for entry in record["ranking"]] == [None, None, "does not parse", "no program"]
    gap = scores[order[0]] - scores[order[1]]
    assert [entry["gap_to_first"] for entry in record["ranking"]] == [0.0, gap, None, None]
    assert [entry["gap_to_next"] for entry in record["ranking"]] == [gap, None, None, None]
    assert record["calibrated_on"] is None
    assert {entry["first_is_correct"] for entry in record["ranking"]} == {None}


def test_rerank_puts_programs_that_miss_the_asked_name_last(folder, files, capsys):
    group = json.loads((files / "groups.jsonl").read_text())
    codes = ["def g(a, b):\n    return a + b", "def f(a, b):\n    return a", "def f(a, b):\n    return a + b"]
    engine = Engine.from_pretrained(folder)
    prompt = f"{PROBLEM}\nassert f(1, 2) == 3"
    scores = engine.score([(prompt, code) for code in codes]).tolist()
    codes = [f"{codes[0]}\n# {n}" for n in range(3)] + codes[1:]
    group |= {"prompt": prompt, "candidates": [{"code": code, "passed": False} for code in [*codes, "def f(:"]]}
    (files / "groups.jsonl").write_text(json.dumps(group))
    command = ("rerank", "--model", folder, files / "groups.jsonl")
    orders = {}
    for option in ("--asked-first", "--no-asked-first"):
        assert run(*command, "--json", option) == 0
        orders[option] = json.loads(capsys.readouterr().out)["ranking"]
    first, plain = orders.values()
    assert {fact["index"] for fact in first[:2]} == {3, 4}
    assert [fact["score"] for fact in first[:2]] == sorted(scores[1:], reverse=True)
    assert [fact["missing"] for fact in first[2:]] == [["f"]] * 4
    assert all(fact["gap_to_first"] is None and fact["first_is_correct"] is None for fact in first[2:])
    assert {fact["index"]: fact["score"] for fact in first} == {fact["index"]: fact["score"] for fact in plain}
    assert {str(fact["missing"]) for fact in plain} == {"[]"}
    by_score = sorted(plain[:-1], key=lambda fact: -fact["score"])
    assert [fact["index"] for fact in plain[:-1]] == [fact["index"] for fact in by_score]
    assert run(*command) == 0
    out = capsys.readouterr().out
    assert out.count("does not define f") == 3
    assert "invalid: does not parse" in out


def test_the_end_of_a_problem_s_file_moves_no_score(folder, files, capsys):
    """An editor ends a file with a newline. The page and groups have the text without it."""
    shown = {"rerank": set(), "explain": set()}
    for end in ("", "\n", "\r\n\n"):
        (files / "problem.md").write_bytes((PROBLEM + end).encode())
        for command, found in shown.items():
            assert run(command, "--model", folder, files / "problem.md", files / "a.py", files / "c.py", "--json") == 0
            found.add(capsys.readouterr().out)
    assert [len(found) for found in shown.values()] == [1, 1]
    (first, *_) = json.loads(shown["rerank"].pop())["ranking"]
    engine = Engine.from_pretrained(folder)
    assert first["score"] == engine.rerank(PROBLEM, [PROGRAMS["a.py"], PROGRAMS["c.py"]])[0].score


def test_a_completion_that_is_ranked_as_a_program_is_noticed(folder, files, capsys):
    (files / "d.md").write_text(f"Here:\n```python\n{PROGRAMS['c.py']}\n```\n")
    command = ("rerank", "--model", folder, files / "problem.md", files / "a.py", files / "d.md")
    assert run(*command) == 0
    assert "1 candidate that does not parse holds a code fence, as completions do; --extract" in capsys.readouterr().err
    assert run(*command[:-2], files / "d.md", "--extract", "paper") == 0
    assert "fence" not in capsys.readouterr().err
    group = {"task_id": "t", "prompt": "p", "candidates": [{"code": (files / "d.md").read_text()}, {"code": "x = 1"}]}
    (files / "fenced.jsonl").write_text(json.dumps(group))
    assert run("rerank", "--model", folder, files / "fenced.jsonl") == 0
    assert "put the program alone into `code`" in capsys.readouterr().err


def test_rerank_says_which_files_hold_one_program(folder, files, capsys):
    (files / "d.py").write_text(PROGRAMS["a.py"].replace("\n", "\r\n") + "\n\n")
    command = ("rerank", "--model", folder, files / "problem.md", *(files / f"{name}.py" for name in "acd"))
    assert run(*command) == 0
    assert f"d.py (the program of {files / 'a.py'})" in capsys.readouterr().out
    assert run(*command, "--json") == 0
    facts = {fact["index"]: fact for fact in json.loads(capsys.readouterr().out)["ranking"]}
    assert [facts[index]["same_as"] for index in range(3)] == [None, None, 0]
    assert facts[0]["score"] == facts[2]["score"]


def test_rerank_takes_programs_out_of_completions(folder, files, capsys):
    block = f"So:\n```python\n{PROGRAMS['a.py']}```\n"
    (files / "d.md").write_text(block)
    (files / "e.md").write_text(block + block)
    (files / "f.md").write_text(f"```python\n{PROGRAMS['b.py']}```")
    programs = (files / "a.py", files / "d.md", files / "e.md", files / "f.md")
    assert run("rerank", "--model", folder, files / "problem.md", *programs, "--extract", "paper", "--json") == 0
    ranking = json.loads(capsys.readouterr().out)["ranking"]
    assert [(entry["index"], entry["code"], entry["invalid_because"]) for entry in ranking] == [
        (1, PROGRAMS["a.py"].strip(), None),
        (0, None, "no program"),
        (2, None, "several blocks"),
        (3, None, "does not parse"),
    ]


def test_rerank_says_how_often_a_gap_was_right(folder, files, tmp_path, capsys):
    model, groups = tmp_path / "copy", tmp_path / "labelled.jsonl"
    shutil.copytree(folder, model)
    codes = [*PROGRAMS.values(), "def add(a, b):\n    return b + a"]
    order = [candidate.index for candidate in Engine.from_pretrained(folder).rerank(PROBLEM, codes)]
    candidates = [{"code": codes[index], "passed": place < 2} for place, index in enumerate(order)]
    labelled = [{"task_id": i, "prompt": PROBLEM, "candidates": candidates, "split": "validation"} for i in range(9)]
    groups.write_text("\n".join(map(json.dumps, labelled)))
    measure = ("eval", "calibration", groups, "--split", "validation", "--model", model)
    assert run(*measure, "--name", "Sums \x1b", "-o", model / "calibration.json") == 0
    assert "36 pairs of a correct and an incorrect program, of 9 problems" in capsys.readouterr().out
    command = ("rerank", "--model", model, files / "problem.md", files / "a.py", files / "c.py")
    assert run(*command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["rank", "score", "behind", "first", "is", "correct", "program"]
    assert "on Sums \\x1b (9 problems) [95% interval]." in lines
    assert run(*command, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["calibrated_on"] == {"name": "Sums \x1b", "num_problems": 9}
    first, second = record["ranking"]
    assert first["first_is_correct"] is None
    engine = Engine.from_pretrained(folder)
    own = model / "calibration.json", engine.head_digest, engine.text.describe(are_programs=True)
    chance = read_calibration(*own).estimate_chance
    assert second["first_is_correct"] == json.loads(json.dumps(chance(second["gap_to_first"])))
    assert f"{100 * second['first_is_correct']['mean']:.0f} of 100 [" in lines[3]
    assert run(*measure) == 0  # which writes nothing
    capsys.readouterr()
    save_random_checkpoint(model, "qwen3", vocab_size=300, pad_token_id=299, seed=1)
    assert run(*command) == 3
    assert "calibration.json is of a model whose head has the digest" in capsys.readouterr().err
    assert run(*command[:3], files / "groups.jsonl", "--calibration", tmp_path / "absent.json") == 3
    assert "absent.json holds no calibration" in capsys.readouterr().err


def test_without_a_model_it_is_the_package_s(folder, files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("codescaler.checkpoint.download.PACKAGED_MODEL", folder)
    command = ("rerank", files / "problem.md", files / "a.py", files / "c.py", "--json")
    assert run(*command) == run(*command, "--model", "nano") == run(*command, "--model", folder) == 0
    default, named, given = map(json.loads, capsys.readouterr().out.splitlines())
    assert default["ranking"] == named["ranking"] == given["ranking"]
    monkeypatch.setattr("codescaler.checkpoint.download.PACKAGED_MODEL", tmp_path / "absent")
    assert run(*command) == 3
    assert "this installation of codescaler has no model 'nano'" in capsys.readouterr().err


def test_score_to_stdout_and_to_a_file(folder, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "p", "response": "x = 1"}\n')
    assert run("score", rows, "--model", folder) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["score"] == Engine.from_pretrained(folder).score([("p", "x = 1")])[0]
    assert run("score", rows, "--model", folder, "-o", tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl").read_text() == printed
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "out.jsonl: 1 rows" in captured.err


def test_programs_of_groups_are_scored_into_a_file(folder, files, tmp_path, capsys):
    target = tmp_path / "scored.jsonl"
    assert run("score", files / "groups.jsonl", "--model", folder, "-o", target) == 0
    assert "groups. This run" in capsys.readouterr().err
    for before, after in zip(
        *(path.read_text().splitlines() for path in (files / "groups.jsonl", target)), strict=True
    ):
        for old, new in zip(json.loads(before)["candidates"], json.loads(after)["candidates"], strict=True):
            assert ("score" in new) == (old["code"] is not None) and old.items() <= new.items()
    assert run("score", files / "groups.jsonl", "--model", folder) == 2
    assert "give -o" in capsys.readouterr().err


def test_rows_may_come_through_a_pipe(folder):
    rows = "".join(json.dumps({"prompt": "p", "response": f"x = {index}"}) + "\n" for index in range(3))
    command = [sys.executable, "-m", "codescaler.cli", "score", "--model", str(folder), "/dev/stdin"]
    done = subprocess.run(command, input=rows, capture_output=True, text=True, check=True)
    assert [json.loads(line)["response"] for line in done.stdout.splitlines()] == ["x = 0", "x = 1", "x = 2"]


def test_engine_options_reach_the_engine(folder, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "p" * 100, "response": "x = 1"}))
    assert run("score", rows, "--model", folder, "--max-length", 50) == 2
    assert "more than max_length=50" in capsys.readouterr().err
    options = ("--max-length", 50, "--truncation", "left", "--dtype", "bfloat16", "--num-threads", 1)
    assert run("score", rows, "--model", folder, *options) == 0
    engine = Engine.from_pretrained(folder, max_length=50, truncation="left", dtype="bfloat16", num_threads=1)
    assert json.loads(capsys.readouterr().out)["score"] == engine.score([("p" * 100, "x = 1")])[0]


def test_system_prompts_come_from_a_file_and_from_rows(folder, files, tmp_path, capsys):
    (tmp_path / "system.txt").write_text("\ufeffRate it.\n")
    pair = {"prompt": "p", "response": "x = 1"}
    rows = [pair, pair | {"system": "row"}, pair | {"system": ""}, pair | {"system": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    option = ("--model", folder, "--system", tmp_path / "system.txt")
    assert run("score", tmp_path / "rows.jsonl", *option) == 0
    engine = Engine.from_pretrained(folder)
    given, own, none = (engine.score([("p", "x = 1")], system=text)[0] for text in ("Rate it.", "row", ""))
    assert [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()] == [given, own, none, given]
    programs = [files / name for name in PROGRAMS]
    assert run("rerank", files / "problem.md", *programs, *option, "--json") == 0
    ranked = engine.rerank(PROBLEM, [*PROGRAMS.values()], system="Rate it.")
    shown = json.loads(capsys.readouterr().out)["ranking"]
    assert [(fact["index"], fact["score"]) for fact in shown] == [(c.index, c.score) for c in ranked]
    group = json.loads((files / "groups.jsonl").read_text()) | {"system": "Rate it."}
    (tmp_path / "own.jsonl").write_text(json.dumps(group))
    assert run("rerank", tmp_path / "own.jsonl", "--model", folder, "--json") == 0
    found = json.loads(capsys.readouterr().out)["ranking"]
    assert [fact["score"] for fact in found[:3]] == [fact["score"] for fact in shown]
    assert run("score", tmp_path / "own.jsonl", "--model", folder, "-o", tmp_path / "scored.jsonl") == 0
    scored = json.loads((tmp_path / "scored.jsonl").read_text())["candidates"]
    assert [scored[fact["index"]]["score"] for fact in shown] == [fact["score"] for fact in shown]
    (tmp_path / "rows.jsonl").write_text(json.dumps(pair | {"system": 3}))
    assert run("score", tmp_path / "rows.jsonl", "--model", folder) == 2
    assert "line 1: system is 3; give a string" in capsys.readouterr().err


def test_a_calibration_of_other_settings_is_not_used(files, tmp_path, capsys):
    (tmp_path / "system.txt").write_text("Rate it.")
    command = ("rerank", files / "problem.md", files / "a.py", files / "c.py", "--system", tmp_path / "system.txt")
    assert run(*command) == 0
    said = capsys.readouterr()
    assert "calibration.json was measured with system_prompt None, and it is" in said.err
    assert "is not known for this model" in said.out
    assert run(*command, "--calibration", PACKAGED_MODEL / "calibration.json") == 3


def test_info_shows_the_system_prompt_of_a_model_as_text(folder, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "rm")
    (copy / "system_prompt.txt").write_text("Rate it.\x1b[2J\n")
    assert run("info", copy) == 0
    assert "Rate it.\\x1b[2J" in capsys.readouterr().out
    assert run("info", "nano", "--json") == 0
    assert json.loads(capsys.readouterr().out)["system_prompt"] is None


def test_fit_head_makes_a_reward_model(tmp_path, capsys):
    model, groups = tmp_path / "lm", tmp_path / "groups.jsonl"
    save_random_checkpoint(model, "llama", "CausalLM", vocab_size=300)
    save_chat(model)
    candidates = [{"code": "a = 1", "passed": True}, {"code": "a = 2", "passed": False}]
    lines = [json.dumps({"task_id": i, "prompt": f"p{i}", "candidates": candidates}) for i in range(6)]
    groups.write_text("\n".join(lines))
    assert run("fit-head", model, groups, "-o", tmp_path / "rm") == 0
    out = capsys.readouterr().out
    assert "a head fitted on 6 (correct, incorrect) pairs of 12 programs for 6 problems" in out
    assert "on problems it has not seen (95% interval" in out
    assert run("fit-head", model, groups, "-o", tmp_path / "rm2", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_pairs"] == 6
    assert report["output_dir"] == str(tmp_path / "rm2")
    assert run("rerank", "--model", tmp_path / "rm", groups, "--json") == 0
    assert run("fit-head", model, groups, "-o", tmp_path / "rm") == 2
    assert "is there already" in capsys.readouterr().err


def test_info_says_what_is_available_and_why_not(capsys):
    assert run("info", "--json") == 0
    host = json.loads(capsys.readouterr().out)
    assert host["instruction_sets"][-1] == "generic"
    assert "run on a GPU" in host["backends"]["triton on cpu"]
    assert host["backends"]["cpu on cpu"].startswith("C++")
    assert host["languages"]["python"] == "available"
    assert host["sandbox"].startswith(("bubblewrap", "Linux namespaces", "none: untrusted programs cannot be isolated"))
    assert run("info") == 0
    assert "generic" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("rerank", "--model", "{folder}", "{files}/problem.md"), 2, "there is no candidate"),
        (("rerank", "--model", "{folder}", "{files}/problem.md", "{files}/absent.py"), 2, "absent.py cannot be read"),
        (("rerank", "--model", "{folder}", "{files}/groups.jsonl", "--extract", "last"), 2, "--extract is for files"),
        (("rerank", "--model", "{folder}", "{files}/groups.jsonl", "--top-k", "0"), 2, "--top-k 0"),
        (("rerank", "--model", "{files}/absent", "{files}/groups.jsonl"), 3, "no such folder"),
        (("rerank", "--model", "{files}", "{files}/groups.jsonl"), 3, "config.json is not there"),
        (("score", "--model", "{folder}", "{files}/absent.jsonl"), 2, "absent.jsonl cannot be read"),
        (
            ("score", "--model", "{folder}", "{files}/groups.jsonl", "-o", "{files}/out", "--backend", "triton"),
            4,
            "kernels run on a GPU",
        ),
        (("download", "gpt-7", "{files}/x"), 2, "backbone 'gpt-7' is unknown; choose one of smollm2-135m"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(folder, files, capsys, arguments, code, message):
    assert run(*(argument.format(folder=folder, files=files) for argument in arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("codescaler: ")
    assert message in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", "--model", "{folder}", "{files}/rows.jsonl", "-o", "{files}/absent/out.jsonl"),
        ("score", "--model", "{folder}", "{files}/rows.jsonl", "-o", "/dev/full/out.jsonl"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(folder, files, capsys, arguments):
    (files / "rows.jsonl").write_text('{"prompt": "p", "response": "x = 1"}')
    assert run(*(argument.format(folder=folder, files=files) for argument in arguments)) == 5
    assert "out.jsonl" in capsys.readouterr().err


def test_a_terminal_without_the_characters_gets_others(folder, files):
    (files / "problem.md").write_text("caf\u00e9 \x1b[2J", encoding="utf-8")
    (files / "a.py").write_text("x = 1", encoding="utf-8-sig")
    command = [
        sys.executable,
        "-m",
        "codescaler.cli",
        "rerank",
        "--model",
        folder,
        files / "problem.md",
        files / "a.py",
    ]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, env=environment)
    assert "caf\\xe9 \\x1b[2J" in done.stdout
    assert "invalid" not in done.stdout


def test_rerank_in_another_language(folder, files, capsys):
    (files / "a.c").write_text("int main() { return 0; }")
    assert run("rerank", "--model", folder, files / "problem.md", files / "a.c", "--language", "c", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ranking"][0]["is_valid"]


def test_the_command_is_installed_and_starts_without_torch(tmp_path):
    command = Path(sys.executable).with_name("codescaler")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert "fit-head" in done.stdout
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("codescaler 0.")
    assert subprocess.run([command], capture_output=True, check=False).returncode == 2
    code = "import sys, codescaler.cli; codescaler.cli._make_parser(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_reader_that_leaves_is_no_error(folder, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "p", "response": "x = 1"}\n' * 3000)
    command = [sys.executable, "-m", "codescaler.cli", "score", "--model", str(folder), str(rows)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    process.stdout.readline()
    process.stdout.close()
    with process:
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_chat_template_of_a_file_reaches_the_engine(folder, files, tmp_path, capsys):
    template, rows = tmp_path / "own.jinja", tmp_path / "rows.jsonl"
    template.write_text("{{ messages[1].content }}")
    rows.write_text(json.dumps({"prompt": "p", "response": "x = 1"}))
    assert run("score", rows, "--model", folder, "--chat-template", template, "--bos", "template") == 0
    engine = Engine.from_pretrained(folder, chat_template=template.read_text(), bos="template")
    assert json.loads(capsys.readouterr().out)["score"] == engine.score([("p", "x = 1")])[0]
    assert run("score", rows, "--model", folder, "--chat-template", tmp_path / "absent") == 2
    assert "absent cannot be read" in capsys.readouterr().err


def test_a_file_of_another_template_does_not_go_on(folder, tmp_path, capsys):
    target, rows = tmp_path / "out.jsonl", tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "p", "response": "x = 1"}\n')
    engine = Engine.from_pretrained(folder)
    (tmp_path / "out.jsonl.partial.json").write_text(json.dumps(make_settings(engine, are_programs=False)))
    (tmp_path / "out.jsonl.partial").write_text('{"prompt": "p", "response": "x = 1", "score": 0}\n')
    (tmp_path / "same.jinja").write_text((folder / "chat_template.jinja").read_text() + "{# the same text #}")
    options = ("-o", target, "--model", folder)
    assert run("score", rows, *options, "--chat-template", tmp_path / "same.jinja") == 2
    assert "scored with chat_template None" in capsys.readouterr().err
    assert run("score", rows, *options, "--bos", "template") == 2
    assert "scored with bos 'one where the tokenizer puts one'" in capsys.readouterr().err


def test_models_are_named_with_their_scorers(tmp_path, monkeypatch):
    (tmp_path / "m:reviewer").mkdir()
    (tmp_path / "a=b").mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["nano", "x/lm:likelihood", "n=x/lm:reviewer", "m:reviewer", "a=b", "o=hub/id:v1"]
    assert parse_models(given, "coder_reviewer") == {
        "nano": ("nano", "coder_reviewer"),
        "lm:likelihood": ("x/lm", "likelihood"),
        "n": ("x/lm", "reviewer"),
        "m:reviewer": ("m:reviewer", "coder_reviewer"),
        "a=b": ("a=b", "coder_reviewer"),
        "o": ("hub/id:v1", "coder_reviewer"),
    }
    for bad in (["nano", "x/nano"], ["=x"], ["n="], ["random=x"]):
        with pytest.raises(InvalidInput, match="is taken or empty"):
            parse_models(bad, taken=("random",))
