"""Labelled groups to larger ones, in which programs stand rewritten too. Knows labels and rewrites, runs nothing.

What it makes is for `codescaler train`. Make pairs before: `data pairs` would take some copies for other programs.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.io.records import parse_group
from codescaler.text.additions import add_praise
from codescaler.text.rewriting import REWRITES, find_callers_names, rename_locals

AUGMENTATIONS: Mapping[str, Callable[[str, int], str | None]] = {**REWRITES, "praised": add_praise}
_TAKING = ("stripped", "reformatted")  # which would take away what another adds, so they come first


def augment_group(
    record: Mapping[str, Any],
    name: str,
    *,
    rewrites: Sequence[str],
    num_copies: int,
    max_rewrites: int = 1,
    seed: int,
    counts: Counter[str],
) -> dict[str, Any]:
    """A group with up to `num_copies` rewritten copies of each labelled program behind its own candidates.

    A copy has its program's label and the `score` that a teacher gave that program, and says in `rewritten` by what it
    was made, up to `max_rewrites` of `rewrites`: what does the same is to score the same, whatever the teacher would
    make of the copy. Which rewrites a program gets does not depend on its label, so that none becomes a sign of it.
    Names that the problem's text shows callers to use are kept. A copy that is in the group already is left out.
    `counts` are added to.

    Raises: InvalidInput if the record is no group, or a rewrite is not known.
    """
    for rewrite in rewrites:
        if rewrite not in AUGMENTATIONS:
            raise InvalidInput(f"rewrite {rewrite!r} is not known; use one of {', '.join(AUGMENTATIONS)}")
    group = parse_group(record, name)
    if "candidates" not in record:
        raise InvalidInput(f"{name} is a pair; give groups, whose copies can be told from other programs")
    keep, seen = find_callers_names(group.prompt), {candidate.code for candidate in group.candidates}
    copies = []
    for candidate in group.candidates:
        if candidate.code is None or candidate.passed is None:
            counts["without a label or program"] += 1
            continue
        for copy in range(num_copies):
            draw = random.Random(f"{seed}|{copy}|{candidate.code}")
            order, wanted = draw.sample(rewrites, len(rewrites)), draw.randint(1, max_rewrites)
            made, done = _rewrite_in_turn(order, wanted, candidate.code, seed + copy, keep)
            if done and made not in seen:
                seen.add(made)
                counts.update(done)
                score = {} if candidate.score is None else {"score": candidate.score}
                copies.append({"code": made, "passed": candidate.passed, **score, "rewritten": ", ".join(done)})
    return {**record, "candidates": [*record["candidates"], *copies]}


def _rewrite_in_turn(order: Sequence[str], wanted: int, code: str, seed: int, keep: set[str]) -> tuple[str, list[str]]:
    """The program after the first rewrites of `order` that can be done, and their names."""
    made = ((rewrite, rewrite_program(rewrite, code, seed, keep)) for rewrite in order)
    possible = dict(islice(((rewrite, new) for rewrite, new in made if new is not None), wanted))
    done = list[str]()
    for rewrite in sorted(possible, key=lambda rewrite: rewrite not in _TAKING):
        new = rewrite_program(rewrite, code, seed, keep) if done else possible[rewrite]
        if new is not None:
            code = new
            done.append(rewrite)
    return code, done


def rewrite_program(rewrite: str, code: str, seed: int, keep: set[str]) -> str | None:
    """The program after one of `AUGMENTATIONS`, with the names of `keep`; None as in `codescaler.text.rewriting`."""
    return rename_locals(code, seed, keep) if rewrite == "renamed" else AUGMENTATIONS[rewrite](code, seed)
