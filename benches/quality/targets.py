"""What nano learns of two teachers: `python benches targets TAUGHT JUDGED OUT`.

TAUGHT are groups in which attempts at the problem have scores, of any unit, such as a sum of standardised scores.
Programs that `codescaler data negatives` added have none. JUDGED are the same groups with the scores that a reward
model gives to all programs. In OUT the attempts of a group have their scores of TAUGHT with the mean and the deviation
that the reward model's have. Rewritten copies do not count in these two: the reward model may mind how a program is
written. All other programs keep the score of the reward model. So attempts stand in the order of the first teacher, and
the distance to a program that does not answer is that of the second.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches.quality.sampled import write_groups
from codescaler.io.records import read_lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benches targets", description=__doc__.partition("\n\n")[0])
    for name in ("taught", "judged", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    taught, judged = ([record for _, _, record in read_lines(path)] for path in (options.taught, options.judged))
    groups = [combine_scores(*pair) for pair in zip(taught, judged, strict=True)]
    write_groups(options.out, groups)
    print(f"{options.out}: {len(groups)} groups")


def combine_scores(taught: dict[str, Any], judged: dict[str, Any]) -> dict[str, Any]:
    """The group `judged`, its attempts with the scores of `taught` in units of its own.

    Attempts that are all alike have no order, and share the mean. A group of copies alone stays as it is judged.

    Raises: ValueError if the two are not the same programs.
    """
    if _list_programs(taught) != _list_programs(judged):
        raise ValueError(f"{taught['task_id']} and {judged['task_id']} are not the same programs; score the file anew")
    candidates = judged["candidates"]
    pairs = [(old.get("score"), new.get("score")) for old, new in zip(taught["candidates"], candidates, strict=True)]
    indices = [n for n, pair in enumerate(pairs) if None not in pair]
    first, second = (np.array([pairs[n][which] for n in indices]) for which in (0, 1))
    is_own = np.array(["rewritten" not in candidates[n] for n in indices], dtype=bool)
    if not is_own.any():
        return judged
    mean, deviation = second[is_own].mean(), second[is_own].std()
    scores = np.full(len(first), mean)
    if len(np.unique(first[is_own])) > 1:
        scores += deviation * (first - first[is_own].mean()) / first[is_own].std()
    of_attempts = dict(zip(indices, scores.tolist(), strict=True))
    return {
        **judged,
        "candidates": [c | {"score": of_attempts[n]} if n in of_attempts else c for n, c in enumerate(candidates)],
    }


def _list_programs(group: dict[str, Any]) -> tuple[str, Sequence[str | None]]:
    return group["task_id"], [candidate.get("code") for candidate in group["candidates"]]


if __name__ == "__main__":
    main()
