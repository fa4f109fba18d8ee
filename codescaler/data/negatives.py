"""Labelled groups to larger ones, with programs that do not do what the problem asks. Runs nothing.

All programs that were sampled for a problem try to answer it. So a model that learns from them alone has no reason to
read the problem. The programs made here look as good, and answer another problem, or none.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.io.records import Group, parse_group
from codescaler.text.mismatches import KINDS, CorrectProgram, choose_other, find_correct_programs, make_mismatches
from codescaler.text.program import normalize_program

NAMES: Mapping[str, str] = dict(
    zip(("other", "renamed", "near_miss", "no_return", "none", "constant"), KINDS, strict=True)
)
_NUM_OTHERS = 3  # problems whose programs are tried, so that a group may get several of one kind


def add_negatives(
    records: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    kinds: Sequence[str],
    num_negatives: int,
    seed: int,
    counts: Counter[str],
) -> list[dict[str, Any]]:
    """Groups with up to `num_negatives` incorrect programs behind the candidates of each that has a correct program.

    `records` are names and groups. A program is made from one correct program of its group, or of another group, and
    says in `negative` by what rule. Which correct program, which other groups and which rules is drawn. A program that
    is in the group already is left out. `counts` are added to.

    Raises: InvalidInput if a record is no group, or a kind is not known.
    """
    for kind in kinds:
        if kind not in NAMES:
            raise InvalidInput(f"kind {kind!r} is not known; use one of {', '.join(NAMES)}")
    wanted = {NAMES[kind]: kind for kind in kinds}
    read = [(record, parse_group(record, name)) for name, record in records]
    correct = [_find_correct(group) for _, group in read]
    made = []
    for place, (record, group) in enumerate(read):
        if "candidates" not in record:
            raise InvalidInput(f"{group.name} is a pair; give groups, to which programs can be added")
        draw = random.Random(f"{seed}|{group.task_id}|{place}")
        known = {normalize_program(each.code) for each in group.candidates if each.code is not None}
        negatives: list[dict[str, Any]] = []
        for kind, code in _draw_mismatches(draw, place, [g.prompt for _, g in read], correct):
            if kind in wanted and len(negatives) < num_negatives and normalize_program(code) not in known:
                known.add(normalize_program(code))
                counts[wanted[kind]] += 1
                negatives.append({"code": code, "passed": False, "negative": wanted[kind]})
        counts["groups without a correct program"] += not correct[place]
        made.append({**record, "candidates": [*record["candidates"], *negatives]})
    return made


def _find_correct(group: Group) -> list[CorrectProgram]:
    codes = [each.code for each in group.candidates if each.code is not None and each.passed]
    return find_correct_programs(group.prompt, map(normalize_program, codes))


def _draw_mismatches(
    draw: random.Random, place: int, prompts: Sequence[str], correct: Sequence[Sequence[CorrectProgram]]
) -> list[tuple[str, str]]:
    """What the rules make of one correct program of a group, in random order."""
    if not correct[place]:
        return []
    program = draw.choice(correct[place])
    places = [at for at, found in enumerate(correct) if found and prompts[at] != prompts[place]]
    found: dict[tuple[str, str], None] = {}
    for _ in range(_NUM_OTHERS):
        draw.shuffle(places)
        other = choose_other(program, [draw.choice(correct[at]) for at in places[:50]])
        found |= dict.fromkeys(make_mismatches(program, other, prompts[place]))
    mismatches = list(found)
    draw.shuffle(mismatches)
    return mismatches
