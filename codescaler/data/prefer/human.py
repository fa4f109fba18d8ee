"""Preferences that people wrote, and what happens where they contradict what was measured.

Where one preference calls the one of two programs better, and another preference the other, the lower rank is left
out: correctness by tests, then efficiency by measured cost, then a person's word on any aspect, then readability by
proxies. So a test or a clock outranks a person, and a person outranks a formula for taste. Two people who contradict
each other are both left out: nothing here says whom to believe.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from codescaler.data.prefer.preference import Preference
from codescaler.data.programs import LabelledProblem, Program, compute_form, require_text_problem
from codescaler.errors import InvalidInput
from codescaler.io.records import parse_group, read_lines

RULE = "correctness, then efficiency, then a person, then readability; people who contradict each other are left out"
_RANKS = {"correctness": 0, "efficiency": 1, "readability": 3}
_HUMAN_RANK = 2


def read_human(paths: Iterable[Path], problems: Sequence[LabelledProblem]) -> list[Preference]:
    """Reads files of pairs, whose aspect is the record's, or "human".

    A pair without task_id is of the problem with the same prompt, and else one of its own; its split is the problem's.

    Raises: InvalidInput if a record is no pair, or contradicts its problem's prompt or split.
    """
    by_id = {problem.task_id: problem for problem in problems}
    by_prompt = {problem.prompt: problem for problem in problems}
    preferences = []
    for path in paths:
        for name, _, record in read_lines(path):
            group = parse_group(record, name)
            if "candidates" in record:
                raise InvalidInput(f"{name} is a group; give pairs of prompt, chosen and rejected")
            require_text_problem(group)
            codes = [candidate.code for candidate in group.candidates]
            if codes[0] is None or codes[1] is None:
                raise InvalidInput(f"{name}: a program is null; leave out pairs without one")
            aspect = record.get("aspect", "human")
            if not isinstance(aspect, str) or not aspect:
                raise InvalidInput(f"{name}: aspect is {aspect!r:.80}; give a word, such as readability")
            problem = by_id.get(group.task_id) or by_prompt.get(group.prompt)
            for field in ("prompt", "split") if problem else ():
                ours, theirs = getattr(problem, field), getattr(group, field)
                if theirs is not None and ours != theirs:
                    raise InvalidInput(
                        f"{name}: {field} is {theirs!r:.80}, and {ours!r:.80} in the task {group.task_id!r:.80}"
                    )
            first, second = (
                Program(code, True, compute_form(code), generator=path.name) for code in codes if code is not None
            )
            task_id, split = (problem.task_id, problem.split) if problem else (group.task_id, group.split)
            evidence = {"file": path.name, "said_by": record.get("annotator", "a person")}
            preferences.append(
                Preference(task_id, group.prompt, split, first, second, aspect, evidence, group.margin, is_human=True)
            )
    return preferences


def remove_conflicts(preferences: Iterable[Preference]) -> tuple[list[Preference], Counter[str]]:
    """Returns the preferences that stand, and counts of those left out: repeated ones, and conflicts by what won.

    Programs are the same if their normal forms are.
    """
    ranked = sorted(preferences, key=_rank)  # stable: the order within a rank stays
    standing: dict[tuple[str, str, str], list[Preference]] = {}
    kept: dict[int, Preference] = {}
    counts: Counter[str] = Counter()
    contested = _find_contested(ranked)
    for index, found in enumerate(ranked):
        key = (found.task_id, found.chosen.form, found.rejected.form)
        opposite = standing.get((key[0], key[2], key[1]), [])
        if found.chosen.form == found.rejected.form:
            counts["pairs_of_the_same_program"] += 1
        elif any(other.aspect == found.aspect for other in standing.get(key, [])):
            counts["repeated_preferences"] += 1
        elif opposite:
            counts[f"{_name_source(found)} against {_name_source(opposite[0])}"] += 1
        elif found.is_human and key in contested:
            counts["person against person"] += 1
        else:
            standing.setdefault(key, []).append(found)
            kept[index] = found
    return list(kept.values()), counts


def _find_contested(preferences: Iterable[Preference]) -> set[tuple[str, str, str]]:
    said = {(item.task_id, item.chosen.form, item.rejected.form) for item in preferences if item.is_human}
    return {(task_id, first, second) for task_id, first, second in said if (task_id, second, first) in said}


def _rank(found: Preference) -> int:
    return _HUMAN_RANK if found.is_human else _RANKS[found.aspect]


def _name_source(found: Preference) -> str:
    return "person" if found.is_human else found.aspect
