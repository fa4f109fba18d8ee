import json
from collections import Counter

import numpy as np
import pytest

from codescaler.errors import InvalidInput
from codescaler.evaluate.problems import IN_FILE, collect_file_scores, read_evaluation_problems, stratify
from codescaler.types import Task

GROUP = {
    "task_id": "t/1",
    "prompt": "Add.",
    "split": "validation",
    "candidates": [
        {"code": "a = 1", "passed": True, "score": 2},
        {"code": None, "passed": True},
        {"code": "a = (", "passed": False, "score": float("inf")},
    ],
}


def write(tmp_path, *groups):
    path = tmp_path / "groups.jsonl"
    path.write_text("".join(json.dumps(group) + "\n" for group in groups))
    return path


def read(tmp_path, *groups, **options):
    return read_evaluation_problems(write(tmp_path, *groups), **options)


def without_scores(**changes):
    candidates = [{key: c[key] for key in ("code", "passed")} for c in GROUP["candidates"]]
    return GROUP | {"candidates": candidates} | changes


def test_what_holds_no_program_is_wrong_and_not_scored(tmp_path):
    (problem,) = read(tmp_path, GROUP)
    assert problem.is_correct.tolist() == [True, False, False]
    assert problem.has_code.tolist() == [True, False, True]
    assert [r.name.rpartition(": ")[2] for r in problem.responses] == ["candidates[0]", "candidates[2]"]
    assert problem.is_mixed
    assert [scores.tolist() for scores in collect_file_scores([problem])[IN_FILE]] == [[2.0, float("inf")]]


def test_require_syntax_makes_no_program_of_what_does_not_parse(tmp_path):
    (problem,) = read(tmp_path, GROUP, require_syntax=True)
    assert problem.codes == ("a = 1", None, None)
    assert problem.own_scores.tolist() == [2.0]
    assert not problem.is_mixed


def test_a_split_is_chosen_by_name(tmp_path):
    groups = [GROUP, GROUP | {"task_id": "t/2", "split": "train"}, GROUP | {"task_id": 3, "split": None}]
    assert [problem.task_id for problem in read(tmp_path, *groups)] == ["t/1", "t/2", "3"]
    assert [problem.task_id for problem in read(tmp_path, *groups, split="train")] == ["t/2"]
    with pytest.raises(InvalidInput, match=r"no group of split 'test', but of None, train, validation; name another"):
        read(tmp_path, *groups, split="test")


def candidate(**changes):
    return GROUP | {"candidates": [GROUP["candidates"][0] | changes]}


@pytest.mark.parametrize(
    "group, message",
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "line 1 has no candidates; give groups, and pairs to"),
        (GROUP | {"candidates": []}, "line 1 has no candidate; take it out"),
        (GROUP | {"difficulty": [3]}, r"line 1: difficulty is \[3\]; give a string or a whole number"),
        (candidate(score=float("nan")), r"line 1: candidates\[0\]: score is nan; give a number"),
        (candidate(score="1"), r"line 1: candidates\[0\]: score is '1'; give a number"),
        (candidate(score=True), r"line 1: candidates\[0\]: score is True; give a number"),
        (candidate(code=3), "code is 3"),
    ],
)
def test_what_cannot_be_measured_is_named(tmp_path, group, message):
    with pytest.raises(InvalidInput, match=message):
        read(tmp_path, group)


def test_scores_are_for_all_programs_or_for_none(tmp_path):
    assert collect_file_scores(read(tmp_path, without_scores())) == {}
    with pytest.raises(InvalidInput, match="line 2 has no scores, others have"):
        collect_file_scores(read(tmp_path, GROUP, without_scores(task_id=2)))
    some = GROUP | {"candidates": [GROUP["candidates"][0], {"code": "b = 1", "passed": False}]}
    with pytest.raises(InvalidInput, match=r"candidates\[1\] has no score, others have"):
        read(tmp_path, some)
    empty = without_scores(task_id=2, candidates=[{"code": None, "passed": False}])
    assert [len(scores) for scores in collect_file_scores(read(tmp_path, GROUP, empty))[IN_FILE]] == [2, 0]


def test_difficulty_is_the_groups_own_or_the_tasks(tmp_path):
    groups = [GROUP | {"task_id": i, "difficulty": own} for i, own in enumerate(["hard", None, 3])]
    tasks = [Task(str(i), "", difficulty="easy", domain="graphs") for i in range(3)]
    problems = read(tmp_path, *groups, tasks=tasks)
    assert [problem.difficulty for problem in problems] == ["hard", "easy", "3"]
    for by in ("auto", "difficulty"):
        strata = stratify(problems, by)
        assert (strata.by, strata.labels) == ("difficulty", ("hard", "easy", "3"))
    assert stratify(problems, "domain").labels == ("graphs",) * 3
    assert stratify(problems, "none") is None


def test_unknown_difficulty_is_said_and_length_serves(tmp_path):
    lengths = [10, 50, 20, 60, 30, 40]
    groups = [GROUP | {"task_id": i, "prompt": "x" * length} for i, length in enumerate(lengths)]
    groups[0]["difficulty"] = "easy"
    problems = read(tmp_path, *groups)
    strata = stratify(problems, "auto")
    assert strata.note == ("by length of the prompt, since the difficulty of 5 of 6 problems is not known, in thirds")
    assert [label[0] for label in strata.labels] == ["1", "3", "1", "3", "2", "2"]
    assert stratify(problems, "length").labels == strata.labels
    assert np.unique(strata.labels).tolist() == ["1: to 26 characters", "2: to 43", "3: longer"]
    alike = stratify(read(tmp_path, *(GROUP | {"task_id": i} for i in range(3))), "length")
    assert set(alike.labels) == {"1: to 4 characters"}
    with pytest.raises(InvalidInput, match=r"of 5 of 6 problems is not known, e\.g\. of .*line 2; give --tasks a file"):
        stratify(problems, "difficulty")


def test_what_is_not_judged_is_left_out_and_counted(tmp_path):
    unjudged = {"code": "b = 1", "passed": None}
    group = GROUP | {"candidates": [unjudged, *without_scores()["candidates"], {"code": "c = 1"}]}
    counts = Counter()
    (problem,) = read(tmp_path, group, GROUP | {"candidates": [unjudged], "unlabelled": "no tests"}, counts=counts)
    assert counts == {"unjudged_programs": 3, "unlabelled_groups": 1}
    assert problem.codes == ("a = 1", None, "a = (")
    assert [r.name.rpartition(": ")[2] for r in problem.responses] == ["candidates[1]", "candidates[3]"]
    with pytest.raises(InvalidInput, match="no candidate with a verdict; run `codescaler data label` on it first"):
        read(tmp_path, GROUP | {"candidates": [unjudged]})
