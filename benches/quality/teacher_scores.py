"""Packs a teacher's scores of sampled programs: `python benches teacher_scores TAUGHT`.

TAUGHT are groups that `codescaler score` wrote. Written is `benches/quality/data/teacher_scores.jsonl.gz`: a line for
each group with its task_id and the score of each candidate, null for none, to four digits. `add_scores` puts them back.
So a student can be trained anew without the half hour that its teacher takes.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benches.quality.sampled import DATA, write_packed
from codescaler.io.records import read_lines

SCORES = DATA / "teacher_scores.jsonl.gz"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benches teacher_scores", description=__doc__.partition("\n\n")[0])
    parser.add_argument("taught", type=Path)
    write_packed(SCORES, [pack_scores(record) for _, _, record in read_lines(parser.parse_args().taught)])


def pack_scores(group: dict[str, Any]) -> dict[str, Any]:
    scores = [candidate.get("score") for candidate in group["candidates"]]
    return {"task_id": group["task_id"], "scores": [score if score is None else round(score, 4) for score in scores]}


def add_scores(groups: Iterable[dict[str, Any]], path: Path = SCORES) -> Iterator[dict[str, Any]]:
    """The groups with the packed score of each candidate that has one.

    Raises: ValueError if the scores of a group are not packed, or are of another number of candidates.
    """
    packed = {record["task_id"]: record["scores"] for _, _, record in read_lines(path)}
    for group in groups:
        candidates, scores = group["candidates"], packed.get(group["task_id"], ())
        if len(scores) != len(candidates):
            raise ValueError(f"{path} has {len(scores)} scores of {group['task_id']}, which has {len(candidates)}")
        scored = [
            candidate if score is None else {**candidate, "score": score}
            for candidate, score in zip(candidates, scores, strict=True)
        ]
        yield {**group, "candidates": scored}


if __name__ == "__main__":
    main()
