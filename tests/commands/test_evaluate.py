"""`codescaler eval` from files to tables, JSON and pictures, with two tiny reward models."""

import json
import subprocess
import sys

import numpy as np
import pytest

import codescaler.evaluate
from codescaler import cli
from codescaler.engine import Engine
from codescaler.metrics import best_of_n
from codescaler.testing import save_chat, save_random_checkpoint

PROGRAMS = ["def f(a):\n    return a", "def f(a):\n    return -a", "def f(a:", "f = abs"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, (name, family, head) in enumerate(
        [("first", "qwen3", "SequenceClassification"), ("second", "qwen2", "AceCodeRM")]
    ):
        save_random_checkpoint(folder / name, family, head, seed=seed, vocab_size=300, pad_token_id=299)
        save_chat(folder / name)
    return folder


@pytest.fixture
def groups(tmp_path):
    path = tmp_path / "groups.jsonl"
    with path.open("w") as file:
        for task in range(6):
            labels = [(code, index in (task % 3, task % 2)) for index, code in enumerate(PROGRAMS)]
            candidates = [{"code": code, "passed": passed} for code, passed in [*labels, (None, False)]]
            record = {"task_id": task, "prompt": f"Problem {'x' * task}.", "candidates": candidates, "split": "test"}
            file.write(json.dumps(record | {"difficulty": "easy" if task < 4 else "hard"}) + "\n")
    return path


USER, ANSWER = {"role": "user", "content": "p"}, {"role": "assistant", "content": "x = 1"}


def run(*arguments):
    return cli.main(["eval", *map(str, arguments)])


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n") and path.stat().st_size > 2000


def test_best_of_n(models, groups, tmp_path, capsys):
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    models_given = ("--rm", models / "first", "--rm", f"ace={models / 'second'}")
    assert run("bon", groups, *models_given, "--split", "test", "--json", out, "--plot", picture) == 0
    captured = capsys.readouterr()
    record = json.loads(out.read_text())
    figures = record["figures"]
    assert list(figures["scorers"]) == ["first", "ace", "random", "shortest", "longest", "parses", "defines", "oracle"]
    assert list(figures["gains"]) == list(record["models"]) == ["first", "ace"]
    assert "Qwen3ForSequenceClassification" in record["models"]["first"]
    assert is_png(picture)
    engine, chances = Engine.from_pretrained(models / "second"), []
    for line in groups.read_text().splitlines():
        group = json.loads(line)
        scores = engine.score([(group["prompt"], code) for code in PROGRAMS]).tolist()
        chances.append(best_of_n([*scores, -np.inf], [c["passed"] for c in group["candidates"]], 3))
    assert figures["scorers"]["ace"]["best_of_n"][2]["mean"] == pytest.approx(np.mean(chances))
    gain = figures["gains"]["ace"]["first"]["best_of_n"]["mean"]
    ends = [figures["scorers"][name]["best_of_n"][-1]["mean"] for name in ("ace", "first")]
    assert gain == pytest.approx(ends[0] - ends[1])
    assert "6 problems, 6 of them mixed" in captured.out
    assert "30 candidates, 6 of them no program" in captured.out
    for title in ("gain of first over", "gain of ace over", "By difficulty, as the problems say", "hard (2)"):
        assert title in captured.out
    assert f"first: loading {models / 'first'}" in captured.err


def test_best_of_n_without_a_model_by_length_and_by_tasks(groups, tmp_path, capsys):
    assert run("bon", groups, "--by", "length", "--require-syntax") == 0
    out = capsys.readouterr().out
    assert "By length of the prompt, in thirds" in out
    assert "12 of them no program" in out
    plain = tmp_path / "plain.jsonl"
    records = [json.loads(line) for line in groups.read_text().splitlines()]
    for record in records:
        record.pop("difficulty")
        record["candidates"][0]["score"] = record["candidates"][1]["score"] = 1.0
        record["candidates"][2]["score"] = record["candidates"][3]["score"] = 0.5
    plain.write_text("\n".join(map(json.dumps, records)))
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(
        "\n".join(
            json.dumps({"task_id": str(i), "prompt": "p", "tests": None, "difficulty": "easy" if i else "hard"})
            for i in range(6)
        )
    )
    assert run("bon", plain, "--tasks", tasks, "--by", "difficulty") == 0
    out = capsys.readouterr().out
    assert "easy (5)" in out
    assert "hard (1)" in out
    assert "gain of score in the file over" in out
    assert run("bon", plain, "--by", "none") == 0
    assert "(1)" not in capsys.readouterr().out


def test_nano_is_a_name_of_a_model(models, groups, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("codescaler.checkpoint.download.PACKAGED_MODEL", models / "first")
    assert run("bon", groups, "--rm", "nano", "--rm", models / "first", "--json", tmp_path / "out.json") == 0
    scorers = json.loads((tmp_path / "out.json").read_text())["figures"]["scorers"]
    assert scorers["nano"] == scorers["first"]


def test_pairs(models, tmp_path, capsys):
    path, out, picture = tmp_path / "pairs.jsonl", tmp_path / "out.json", tmp_path / "out.png"
    rows = [
        {"question_content": f"q{i}", "code_pos": "a = 1", "code_neg": "a = (", "aspect": "style"} for i in range(3)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert run("pairs", path, "--rm", models / "first", "--json", out, "--plot", picture) == 0
    scores = Engine.from_pretrained(models / "first").score(
        [(row["question_content"], row[key]) for row in rows for key in ("code_pos", "code_neg")]
    )
    figures = json.loads(out.read_text())["figures"]
    accuracy = float((scores[::2] > scores[1::2]).mean())
    assert figures["scorers"]["first"]["accuracy"]["mean"] == pytest.approx(accuracy)
    assert figures["gains"]["first"]["parses"]["mean"] == pytest.approx(accuracy - 1)
    assert figures["by"]["aspect"]["parts"]["style"]["num_items"] == 3
    assert "3 items of 3 prompts" in capsys.readouterr().out
    assert is_png(picture)


def test_sides_that_are_one_program_are_left_out_and_counted(groups, tmp_path, capsys):
    pair = {"prompt": "p", "chosen": "x = 1", "rejected": "y = 1"}
    rows = [pair, pair | {"rejected": "\ufeffx = 1\r\n"}, {"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for benchmark in ("pairs", "rewardbench"):
        assert run(benchmark, tmp_path / "rows.jsonl", "--json", tmp_path / "out.json") == 0
        figures = json.loads((tmp_path / "out.json").read_text())["figures"]
        assert (figures["num_items"], figures["num_duplicates"]) == (1, 2)
        assert (
            "2 items are left out, whose chosen and rejected responses are the same program" in capsys.readouterr().out
        )
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[1]))
    assert run("pairs", tmp_path / "rows.jsonl") == 2
    assert "all 1 items have the same response on both sides" in capsys.readouterr().err
    record = json.loads(groups.read_text().splitlines()[0])
    copies = [{"code": f"{PROGRAMS[0]}\n", "passed": True}, {"code": PROGRAMS[0], "passed": True}]
    groups.write_text(json.dumps(record | {"candidates": [*copies, {"code": PROGRAMS[1], "passed": False}]}))
    assert run("bon", groups, "--by", "none") == 0
    assert "3 candidates, 0 of them no program, 1 the same program as another." in capsys.readouterr().out


def test_rm_bench(models, tmp_path, capsys):
    path, out, picture = tmp_path / "total.json", tmp_path / "out.json", tmp_path / "out.png"
    texts = {"chosen": ["a", "a a", "**a**"], "rejected": ["b", "b b", "**b**"]}
    rows = [
        {"id": i, "prompt": f"q{i}", "domain": domain, **texts} for i, domain in enumerate(["code", "math", "code"])
    ]
    path.write_text(json.dumps(rows))
    assert run("rm-bench", path, "--rm", models / "first", "--json", out, "--plot", picture) == 0
    scores = Engine.from_pretrained(models / "first").score(
        [(row["prompt"], text) for row in rows for text in [*row["chosen"], *row["rejected"]]]
    )
    matrices = (scores.reshape(3, 2, 3)[:, 0, :, None] > scores.reshape(3, 2, 3)[:, 1, None, :]).astype(float)
    domains = json.loads(out.read_text())["figures"]["scorers"]["first"]["domains"]
    assert np.array(domains["code"]["matrix"]) == pytest.approx(matrices[[0, 2]].mean(axis=0))
    assert np.array(domains["math"]["matrix"]) == pytest.approx(matrices[1])
    assert "3 items (code 2, math 1)" in capsys.readouterr().out
    assert is_png(picture)


def test_rewardbench(models, tmp_path, capsys):
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.json"
    chosen = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [
        {"prompt": "q", "chosen": chosen, "rejected": "b", "subset": "hep-python"},
        {"prompt": "q", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": "Math"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert run("rewardbench", path, "--rm", models / "second", "--json", out) == 0
    scores = dict(zip("abcd", Engine.from_pretrained(models / "second").score([("q", t) for t in "abcd"]), strict=True))
    parts = json.loads(out.read_text())["figures"]["by"]["subset"]["parts"]
    assert parts["hep-python"]["scorers"]["second"]["mean"] == float(scores["a"] > scores["b"])
    assert parts["Math"]["scorers"]["second"]["mean"] == float(scores["a"] == max(scores.values()))
    assert "mean of these" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("bon", "{groups}", "--by", "size"), 2, "--by 'size' is not known; use one of auto, difficulty"),
        (("bon", "{groups}", "--by", "domain"), 2, "the domain of 6 of 6 problems is not known"),
        (("bon", "{groups}", "--split", "train"), 2, "no group of split 'train', but of test"),
        (("bon", "{groups}.absent"), 2, "cannot be read"),
        (("calibration", "{groups}", "--split", "train"), 2, "no group of split 'train', but of test"),
        (("calibration", "{groups}", "-o", "{groups}.absent/calibration.json"), 2, "is no folder; make it"),
        (("calibration", "{groups}", "--model", "{groups}.absent"), 3, "no such folder"),
        (("pairs", "{groups}"), 2, "line 1 has candidates"),
        (("rm-bench", "{groups}"), 2, "line 1: domain is None"),
        (("bon", "{groups}", "--rm", "a=x", "--rm", "a=y"), 2, "--rm a=y: the name 'a' is taken or empty"),
        (("bon", "{groups}", "--rm", "random=x"), 2, "--rm random=x: the name 'random' is taken"),
        (("bon", "{groups}", "--rm", "=x"), 2, "--rm =x: the name '' is taken or empty"),
        (("bon", "{groups}", "--rm", "{groups}.absent"), 3, "no such folder"),
        (("bon", "{groups}", "--json", "{groups}.absent/out.json"), 2, "is no folder; make it"),
        (("bon", "{groups}", "--plot", "{groups}"), 2, "is no name of a PNG"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(groups, capsys, arguments, code, message):
    assert run(*(argument.format(groups=groups) for argument in arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.splitlines()[-1].startswith("codescaler: ")


def test_help_says_what_counts():
    command = [sys.executable, "-m", "codescaler.cli", "eval", "bon", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert codescaler.evaluate.__doc__.strip() in shown
    assert "is drawn from" in shown


def test_a_combination_is_a_scorer_like_any(models, groups, tmp_path, capsys):
    given = ("--rm", models / "first", "--rm", f"ace={models / 'second'}")
    out, fitted = tmp_path / "out.json", tmp_path / "combination.json"
    assert run("combination", groups, *given, "-o", fitted) == 0
    assert "fitted weights" in capsys.readouterr().out
    weights = {member["name"]: member["weight"] for member in json.loads(fitted.read_text())["members"]}
    for combine, label in (("z", "z(first + ace)"), (fitted, "weighted(first + ace)")):
        assert run("bon", groups, *given, "--combine", combine, "--json", out) == 0
        record = json.loads(out.read_text())
        assert list(record["figures"]["scorers"])[:3] == [label, "first", "ace"]
        assert set(record["figures"]["gains"]) == {label, "first", "ace"}
    assert str(weights["first"]) in record["models"][label]
    assert run("bon", groups, "--rm", models / "first", "--combine", "z") == 2
    assert run("bon", groups, "--rm", models / "first", "--rm", f"n={models / 'first'}", "--combine", fitted) == 3
    assert "give each of them once" in capsys.readouterr().err


def test_a_combination_ranks_and_scores_as_it_is_evaluated(models, groups, tmp_path, capsys):
    given = ("--rm", models / "first", "--rm", f"ace={models / 'second'}", "--combine", "z")
    assert cli.main([*map(str, ("score", groups, "-o", tmp_path / "scored.jsonl", *given))]) == 0
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert cli.main([*map(str, ("rerank", groups, "--json", *given))]) == 0
    rankings = [json.loads(line)["ranking"] for line in capsys.readouterr().out.splitlines()]
    engines = {"first": Engine.from_pretrained(models / "first"), "ace": Engine.from_pretrained(models / "second")}
    for record, ranking in zip(scored, rankings, strict=True):
        held = {index: c["score"] for index, c in enumerate(record["candidates"]) if c["code"] is not None}
        assert {fact["index"]: fact["score"] for fact in ranking if fact["code"] is not None} == held
        pairs = [(record["prompt"], fact["code"]) for fact in ranking if fact["code"] is not None]
        for name, engine in engines.items():
            members = [fact["members"][name] for fact in ranking if fact["code"] is not None]
            assert members == engine.score(pairs).tolist()
    assert run("bon", tmp_path / "scored.jsonl", *given) == 0
    lines = capsys.readouterr().out.splitlines()
    ours, theirs = (
        next(line.removeprefix(name).strip() for line in lines if line.startswith(name))
        for name in ("z(first + ace)", "score in the file")
    )
    assert ours == theirs
    assert cli.main([*map(str, ("rerank", groups, *given))]) == 0
    assert "Scores are 1 z(first) + 1 z(ace)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rm", "nano"),
        ("--rm", "nano", "--rm", "a=nano"),
        ("--combine", "z"),
        ("--model", "nano", "--rm", "nano", "--rm", "a=nano", "--combine", "z"),
    ],
)
def test_options_of_a_combination_go_together(groups, arguments, capsys):
    assert cli.main(["rerank", str(groups), *arguments]) == 2
    assert "a combination needs --rm twice or more" in capsys.readouterr().err


def test_reading(models, tmp_path, capsys):
    with (tmp_path / "groups.jsonl").open("w") as file:
        for name, right, wrong in (("add", "a + b", "a - b"), ("less", "a - b", "a"), ("pair", "[a, b]", "a")):
            codes = {f"def {name}(a, b):\n    return {body}": body == right for body in (right, wrong)}
            candidates = [{"code": code, "passed": passed} for code, passed in codes.items()]
            record = {"task_id": name, "prompt": f"Do it.\nassert {name}(1, 2) == 3", "candidates": candidates}
            file.write(json.dumps(record) + "\n")
        file.write(json.dumps({"task_id": 0, "prompt": "p", "candidates": [{"code": "x", "passed": False}]}) + "\n")
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    given = ("--rm", models / "first", "--rm", f"ace={models / 'second'}", "--combine", "z")
    assert run("reading", tmp_path / "groups.jsonl", *given, "--json", out, "--plot", picture) == 0
    captured = capsys.readouterr()
    figures = json.loads(out.read_text())["figures"]
    assert list(figures["scorers"])[:3] == ["z(first + ace)", "first", "ace"]
    assert "1 groups that name no function" in captured.err
    for name in ("z(first + ace)", "first", "ace"):
        assert figures["scorers"][name]["verdict"] in captured.out
    assert set(figures["num_beside"].values()) == {3}
    assert is_png(picture)


def test_fitness(models, groups, tmp_path, capsys):
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    assert run("fitness", groups, "--rm", f"rm={models / 'first'}", "--json", out, "--plot", picture) == 0
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())["figures"]
    scorer = figures["scorers"]["rm"]
    assert scorer["verdict"]["sentence"] in printed and "6 mixed problems are fewer than 20" in printed
    assert "harms     The gain over validity is below 0" in printed
    assert figures["num_rewritten"]["praised"] > 0 and scorer["moves"]["praised"] is not None
    assert scorer["kept"]["mean"] - figures["share_correct"]["mean"] == pytest.approx(scorer["gain"]["mean"])
    assert is_png(picture)
