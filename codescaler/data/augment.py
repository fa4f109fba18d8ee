"""Labelled groups to larger ones, in which programs stand rewritten too. Knows labels and rewrites, runs nothing.

What it makes is for `codescaler train`: `data pairs` leaves out what differs in names or layout only.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.io.records import parse_group
from codescaler.text.additions import add_praise
from codescaler.text.rewriting import REWRITES, find_callers_names, rename_locals

AUGMENTATIONS: Mapping[str, Callable[[str, int], str | None]] = {**REWRITES, "praised": add_praise}


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
    was made, one rewrite or up to `max_rewrites` in turn: what does the same is to score the same, whatever the teacher
    would make of the copy. Which rewrites a program gets does not depend on its label, so that none becomes a sign of
    it. Names that the problem's text shows
    callers to use are kept. A copy that is in the group already is left out. `counts` are added to.

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
            made, done = candidate.code, list[str]()
            for rewrite in order:  # the first that can be done
                new = _rewrite(rewrite, made, seed + copy, keep) if len(done) < wanted else None
                if new is not None and new not in seen:
                    made = new
                    done.append(rewrite)
            if done:
                seen.add(made)
                counts.update(done)
                score = {} if candidate.score is None else {"score": candidate.score}
                copies.append({"code": made, "passed": candidate.passed, **score, "rewritten": ", ".join(done)})
    return {**record, "candidates": [*record["candidates"], *copies]}


def _rewrite(rewrite: str, code: str, seed: int, keep: set[str]) -> str | None:
    return rename_locals(code, seed, keep) if rewrite == "renamed" else AUGMENTATIONS[rewrite](code, seed)
