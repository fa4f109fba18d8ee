"""The problems of the model that reads: what is kept from training, and that what is packed comes back whole."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benches.quality import sampled, targets, teacher_scores
from benches.quality.reading_data import FIRST_LATE, SHOWN, make_reference_groups, take_before_window
from codescaler.errors import InvalidInput
from codescaler.evaluate.tables import format_percent
from codescaler.io.records import read_groups, read_lines
from codescaler.text.mismatches import DROPPED, NEAR_MISS, OTHER, RENAMED
from codescaler.types import Task

ROOT = Path(__file__).parents[1]


def test_what_make_demo_shows_is_in_no_set_and_scores_are_put_back(tmp_path):
    shown = [record["task_id"] for _, _, record in read_lines(SHOWN)]
    mbpp = [
        {"task_id": number, "text": f"Text {number}.", "code": "x", "test_list": ["assert x"]}
        for number in (*range(511, 601), 1, int(shown[0].partition("/")[2]))
    ]
    rollouts = [
        {"task_id": name, "split": split, "prompt": name, "candidates": [{"code": "x", "passed": True}] * 10}
        for name, split in [(shown[0], "train"), ("mbpp/1", "train"), ("mbpp/511", "validation")]
    ]
    packed = [record["task_id"] for _, _, record in read_lines(sampled.DATA / "leetcode_easy.jsonl.gz")]
    leetcode = [
        {
            "task_id": name.partition("/")[2],
            "difficulty": "Easy",
            "query": name,
            "prelude": "",
            "entry_point": "f",
            "completion": "x",
            "test": "def check(candidate): pass",
        }
        for name in [*packed, FIRST_LATE]
    ]
    (tmp_path / "mbpp.jsonl").write_text("\n".join(map(json.dumps, mbpp)))
    for name, records in (("rollouts_mbpp", rollouts), ("leetcode_train", leetcode)):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    command = [sys.executable, "benches", "reading_data", tmp_path, tmp_path / "out"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)

    def list_ids(name):
        return [group.task_id for group in read_groups(tmp_path / "out" / f"{name}.jsonl")]

    assert list_ids("sampled_train") == list_ids("taught") == ["mbpp/1", *packed]
    assert list_ids("mbpp_validation") == ["mbpp/511"]
    assert set(list_ids("foreign_validation")) <= {f"mbpp/{number}" for number in range(511, 601)}
    assert {name.removesuffix("/reference") for name in list_ids("references_train")} == {"mbpp/1", *packed}
    (taught, *_) = read_groups(tmp_path / "out/taught.jsonl")
    (packed_scores,) = (r["scores"] for _, _, r in read_lines(teacher_scores.SCORES) if r["task_id"] == "mbpp/1")
    assert [candidate.score for candidate in taught.candidates] == packed_scores


def test_scores_of_other_candidates_are_not_put_back(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text(json.dumps(teacher_scores.pack_scores({"task_id": "t", "candidates": [{"score": 0.12345}, {}]})))
    candidates = [{"code": "a"}, {"code": None}]
    (group,) = teacher_scores.add_scores([{"task_id": "t", "candidates": candidates}], path)
    assert group["candidates"] == [{"code": "a", "score": 0.1235}, {"code": None}]
    for task_id, few in (("t", candidates[:1]), ("other", candidates)):
        with pytest.raises(ValueError, match=f"scores of {task_id}, which has {len(few)}"):
            list(teacher_scores.add_scores([{"task_id": task_id, "candidates": few}], path))


def test_attempts_have_one_teacher_s_order_in_the_other_s_units_and_other_programs_its_scores(tmp_path):
    codes, taught, judged = "abcde", [3.0, 1.0, 2.0, None, None], [0.5, -1.0, 2.0, -6.0, None]

    def make_group(task_id, scores):
        known = [{} if score is None else {"score": score} for score in scores]
        candidates = [{"code": code} | score for code, score in zip(codes, known, strict=True)]
        return {"task_id": task_id, "prompt": "p", "candidates": candidates}

    def write(name, *scores):
        (tmp_path / name).write_text("".join(json.dumps(make_group(f"t/{n}", s)) + "\n" for n, s in enumerate(scores)))
        return tmp_path / name

    alike = [0.0, None, 0.0, None, None]
    command = [write("taught", taught, alike), write("judged", judged, judged), tmp_path / "out"]
    subprocess.run([sys.executable, "benches", "targets", *command], check=True, cwd=ROOT, capture_output=True)
    first, second = ([c.score for c in group.candidates] for group in read_groups(tmp_path / "out"))
    assert first[:3] == pytest.approx([2.0, -1.0, 0.5]) and first[3:] == judged[3:]
    assert second == [1.25, -1.0, 1.25, -6.0, None], "where all attempts are alike there is no order to teach"
    with pytest.raises(ValueError, match="t/1 and t/2 are not the same programs"):
        targets.combine_scores(make_group("t/1", taught), make_group("t/2", judged))


def test_a_rewritten_copy_has_its_attempt_s_target_whatever_the_reward_model_makes_of_it():
    def make_group(*scores):
        candidates = [{"code": code, "score": score} for code, score in zip("abA", scores, strict=True)]
        return {"task_id": "t", "prompt": "p", "candidates": [*candidates[:2], candidates[2] | {"rewritten": "hinted"}]}

    for taught, wanted in (((1.0, 3.0, 1.0), (0.5, 2.0, 0.5)), ((0.1, 0.1, 0.1), (1.25, 1.25, 1.25))):
        made = targets.combine_scores(make_group(*taught), make_group(0.5, 2.0, -9.0))
        assert [candidate["score"] for candidate in made["candidates"]] == pytest.approx(wanted)


def test_problems_that_livecodebench_may_hold_are_left_out():
    names = ["leetcode/two-sum", "leetcode/hard", FIRST_LATE, "leetcode/late"]
    levels = ["Easy", "Hard", "Easy", "Medium"]
    tasks = [Task(name, "p", None, difficulty=level) for name, level in zip(names, levels, strict=True)]
    assert [task.task_id for task in take_before_window(tasks)] == ["leetcode/two-sum"]
    with pytest.raises(ValueError, match="not in list"):  # a file in another order cannot be cut
        take_before_window(tasks[:2])


def test_a_solution_is_a_group():
    tasks = [
        Task("t/1", "p", None, reference="a\r\nb"),
        Task("t/2", "p" * 9999, None, reference="a"),
        Task("t/3", "p", None),
    ]
    (group,) = make_reference_groups(tasks)
    assert group["task_id"] == "t/1/reference" and group["candidates"] == [{"code": "a\nb", "passed": True}]


def test_packed_programs_come_back(tmp_path):
    candidates = [
        {"completion": "```python\nx = 1\n```", "code": "x = 1", "finish": "stop", "passed": True, "passed_tests": 3},
        {"completion": "none", "code": None, "finish": "length", "passed": False},
    ]
    record = {
        "task_id": "t/1",
        "split": "validation",
        "prompt": "p",
        "candidates": candidates,
        "generator": {"seed": 1},
    }
    packed = sampled.pack_group(record)
    assert "prompt" not in packed and "code" not in packed["candidates"][0]
    path = tmp_path / "packed.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(packed).encode()))
    (group,) = sampled.read_sampled(path, [Task("t/1", "p", None)])
    del candidates[0]["passed_tests"]
    assert group == record
    with pytest.raises(InvalidInput, match="t/1 is not among the problems"):
        sampled.read_sampled(path, [])


def test_a_bench_says_what_was_wrong_with_its_input(tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    words = ["benches", "sampled", "unpack", "leetcode_levels", str(tmp_path / "none.jsonl"), "-o", str(tmp_path / "o")]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_every_packed_file_is_there():
    assert all((sampled.DATA / f"{name}.jsonl.gz").is_file() for name in sampled.SAMPLED)


def test_a_committed_file_becomes_groups_that_commands_read(tmp_path, monkeypatch):
    task = {"task_id": 1, "text": "Add.", "code": "x = 1", "test_list": ["assert add(1, 2) == 3"]}
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(task))
    packed = {"task_id": "mbpp/1", "candidates": [{"completion": "```python\nx = 1\n```", "passed": False}]}
    (tmp_path / "few.jsonl.gz").write_bytes(gzip.compress(json.dumps(packed).encode()))
    monkeypatch.setattr(sampled, "DATA", tmp_path)
    monkeypatch.setattr(sampled, "SAMPLED", ("few",))
    sampled.main(["unpack", "few", str(tmp_path / "mbpp.jsonl"), "-o", str(tmp_path / "groups.jsonl")])
    (group,) = read_groups(tmp_path / "groups.jsonl")
    assert group.task_id == "mbpp/1" and group.codes == ["x = 1"] and "Add." in str(group.problem)


def test_figures_of_the_page_are_those_measured():
    scorers = json.loads((ROOT / "benches/results/reading_nano.json").read_text())["figures"]["scorers"]
    page = (ROOT / "docs/training.md").read_text()
    both = [scorers[name] for name in ("nano", "teacher")]
    correlations = [(one["correlation"]["mean"], *one["correlation"]["interval"]) for one in both]
    rows = {
        "correlation of scores after two texts": ["{:.3f} [{:.3f}, {:.3f}]".format(*one) for one in correlations],
        "correct pairs, own text": [format_percent(one["pair_accuracy_own"]) for one in both],
        "the fall with another text": [format_percent(one["fall"], "+") for one in both],
    }
    titles = {
        OTHER: "a correct program before another problem's",
        RENAMED: "the same, the other under this problem's name",
        NEAR_MISS: "before itself under a near-miss name",
        DROPPED: "before itself without its last return",
    }
    rows |= {title: [format_percent(one["before"][kind]) for one in both] for kind, title in titles.items()}
    for title, cells in rows.items():
        assert all(cells) and f"| {title} | {' | '.join(cells)} |" in page
