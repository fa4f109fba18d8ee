"""Figures of scorers on chosen and rejected responses: pairs, RewardBench and RewardBench 2.

An item is right if its best-scored response is a chosen one; responses that tie for the best share it equally, so of k
one that is chosen earns 1/k. For a pair this is: a tie counts half.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codescaler.errors import InvalidInput
from codescaler.evaluate.estimates import estimate_mean_of_parts, estimate_means
from codescaler.evaluate.scorers import Response, Scores, require_numbers
from codescaler.io.records import parse_group, read_objects
from codescaler.io.turns import Problem, read_prompt, read_system, split_answer
from codescaler.metrics import Figures
from codescaler.text.program import make_conversation, normalize_program

_PAIR_FIELDS = ("domain", "difficulty", "aspect")
_TIES = "ties"


@dataclass(frozen=True)
class Item:
    """Responses to one prompt, chosen ones first. `cluster` tells prompts apart; `labels` are what to sort by."""

    responses: tuple[Response, ...]
    cluster: str
    labels: Mapping[str, str]


def read_pairs(path: Path) -> list[Item]:
    """Returns the pairs of a file, {prompt, chosen, rejected} or by the names of the paper."""
    items = []
    for name, record in read_objects(path):
        if "candidates" in record:
            raise InvalidInput(f"{name} has candidates; give pairs, and groups to `codescaler eval bon`")
        group = parse_group(record, name)
        responses = []
        for word, candidate in zip(("chosen", "rejected"), group.candidates, strict=True):
            if candidate.code is None:
                raise InvalidInput(f"{name}: the {word} program is null; a pair takes two programs, take it out")
            where = f"{name}, {word}"
            responses.append(_make_response(group.problem, candidate.code, group.system, word == "chosen", where))
        items.append(Item(tuple(responses), group.prompt, _read_labels(record, _PAIR_FIELDS, name)))
    return _require_items(items, path)


def read_rewardbench(path: Path, counts: Counter[str] | None = None) -> list[Item]:
    """Returns the rows of RewardBench ({prompt, chosen, rejected}, text or messages), or of 2 (lists of texts).

    The subset Ties of RewardBench 2 is left out, and counted in `counts`: its weighted score is not an accuracy, and is
    not computed here.
    """
    items, num_ties = [], 0
    for name, record in read_objects(path):
        labels = _read_labels(record, ("subset",), name)
        if labels.get("subset", "").lower() == _TIES:
            num_ties += 1
            continue
        responses = []
        for word in ("chosen", "rejected"):
            value = record.get(word)
            is_several = isinstance(value, list) and all(isinstance(text, str) for text in value)
            if value == []:
                raise InvalidInput(f"{name}: {word} is empty; give at least one response")
            for index, answer in enumerate(value if is_several else [value]):  # type: ignore[arg-type]
                where = f"{name}: {word}{f'[{index}]' if is_several else ''}"
                responses.append(parse_response(record, answer, word == "chosen", where))
        items.append(Item(tuple(responses), f"{labels.get('subset')}\0{record.get('id', name)}", labels))
    if num_ties and not items:
        raise InvalidInput(
            f"{path} has the subset Ties alone, whose score is not computed here; give other subsets too"
        )
    if num_ties and counts is not None:
        counts["items of the subset Ties"] += num_ties
    return _require_items(items, path)


def parse_response(record: Mapping[str, Any], answer: Any, is_correct: bool, where: str) -> Response:
    """A response to the record's prompt. Both may be messages; those of an answer may begin with the prompt's."""
    problem, text = split_answer(read_prompt(record, where), answer, where)
    return _make_response(problem, text, read_system(record, where), is_correct, where)


def _make_response(problem: Problem, text: str, system: str | None, is_correct: bool, where: str) -> Response:
    text = normalize_program(text)
    return Response(make_conversation(problem, text, system), text, is_correct, where)


def drop_duplicates(items: Sequence[Item]) -> tuple[list[Item], int]:
    """Returns the items whose chosen and rejected responses differ, and the number of the others.

    Responses are the same if they are the same program (`text.program.normalize_program`).

    Raises: InvalidInput if no item is left.
    """
    kept = [item for item in items if not _has_equal_sides(item)]
    if not kept:
        raise InvalidInput(f"all {len(items)} items have the same response on both sides; give pairs that differ")
    return kept, len(items) - len(kept)


def _has_equal_sides(item: Item) -> bool:
    chosen, rejected = ({r.text for r in item.responses if r.is_correct is side} for side in (True, False))
    return not chosen.isdisjoint(rejected)


def evaluate_preferences(items: Sequence[Item], scores: Scores, models: Sequence[str]) -> dict[str, Any]:
    """Returns what JSON holds of an evaluation: accuracies of all items and by label, and gains of `models`."""
    require_numbers(items, scores)
    clusters = [item.cluster for item in items]
    credits = {
        scorer: np.array([_give_credit(item, values) for item, values in zip(items, of_items, strict=True)])
        for scorer, of_items in scores.items()
    }
    gains = {(m, other): credits[m] - credits[other] for m in models for other in scores if other != m}
    overall, gained = estimate_means(credits, clusters), estimate_means(gains, clusters)
    figures: dict[str, Any] = {
        "num_items": len(items),
        "num_clusters": len(set(clusters)),
        "scorers": {scorer: {"accuracy": estimate} for scorer, estimate in overall.items()},
        "gains": {m: {other: gained[m, other] for other in scores if other != m} for m in models},
        "by": {},
    }
    for field in dict.fromkeys(field for item in items for field in item.labels):
        figures["by"][field] = _group_by_label(field, items, credits, clusters)
    return figures


def _group_by_label(
    field: str, items: Sequence[Item], credits: Mapping[str, Figures], clusters: Sequence[str]
) -> dict[str, Any]:
    """Accuracies of each part, and their mean, in which parts count equally."""
    labels = [item.labels.get(field, "not said") for item in items]
    rows = {label: [i for i, own in enumerate(labels) if own == label] for label in dict.fromkeys(labels)}
    columns = [{scorer: credit[chosen] for scorer, credit in credits.items()} for chosen in rows.values()]
    names = [[clusters[i] for i in chosen] for chosen in rows.values()]
    parts = {
        label: {"num_items": len(rows[label]), "scorers": estimate_means(column, own)}
        for label, column, own in zip(rows, columns, names, strict=True)
    }
    return {"parts": parts, "mean": estimate_mean_of_parts(columns, names, [1 / len(rows)] * len(rows))}


def _give_credit(item: Item, values: Figures) -> float:
    is_best = values == values.max()
    is_correct = np.array([response.is_correct for response in item.responses])
    return float(is_correct[is_best].mean())


def _read_labels(record: Mapping[str, Any], fields: Sequence[str], name: str) -> dict[str, str]:
    labels = {field: record[field] for field in fields if record.get(field) is not None}
    for field, value in labels.items():
        if not isinstance(value, str | int):
            raise InvalidInput(f"{name}: {field} is {value!r:.80}; give a string")
    return {field: str(value) for field, value in labels.items()}


def _require_items(items: list[Item], path: Path) -> list[Item]:
    if not items:
        raise InvalidInput(f"{path} has no record; give at least one")
    return items
