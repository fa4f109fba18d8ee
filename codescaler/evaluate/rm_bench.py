"""RM-Bench: three chosen and three rejected responses an item, of ever fancier style: concise, plain text, markdown.

A[i][j] says whether chosen i scores strictly above rejected j. Hard is the mean above the diagonal, where the rejected
one is fancier; normal is the diagonal, easy the mean below. A domain's average is the mean of the three, the overall
figures are means over domains. Parts of a domain, such as safety-refuse and safety-response, count equally in it.
Source: Liu et al. 2024, arXiv:2410.16184.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codescaler.errors import InvalidInput
from codescaler.evaluate.estimates import Estimate, estimate_mean_of_parts
from codescaler.evaluate.preferences import Item, parse_response
from codescaler.evaluate.scorers import Scores, require_numbers
from codescaler.io.records import read_objects
from codescaler.metrics import Figures

NUM_STYLES = 3
LEVELS = ("easy", "normal", "hard", "average")


def read_rm_bench(path: Path, domain: str | None = None) -> list[Item]:
    """Returns the items of a file, {id, prompt, chosen: [3 texts], rejected: [3 texts], domain}.

    `domain` is that of rows which say none, as in the files of one domain.
    """
    items: dict[str, Item] = {}
    for name, record in read_objects(path):
        label, identity = record.get("domain", domain), record.get("id")
        if not isinstance(label, str) or not label:
            raise InvalidInput(
                f"{name}: domain is {label!r:.80}; give a string such as 'code', or --domain for the file"
            )
        if not isinstance(identity, str | int):
            raise InvalidInput(f"{name}: id is {identity!r:.80}; give a string or a whole number")
        responses = []
        for word in ("chosen", "rejected"):
            texts = record.get(word)
            if not isinstance(texts, list) or len(texts) != NUM_STYLES or not all(isinstance(t, str) for t in texts):
                raise InvalidInput(f"{name}: {word} is {texts!r:.80}; give a list of {NUM_STYLES} texts")
            responses += [
                parse_response(record, t, word == "chosen", f"{name}: {word}[{i}]") for i, t in enumerate(texts)
            ]
        cluster = f"{label}\0{identity}"
        if cluster in items:
            raise InvalidInput(f"{name}: id {identity!r:.80} stands twice in domain {label!r}; take one out")
        items[cluster] = Item(tuple(responses), cluster, {"domain": label})
    if not items:
        raise InvalidInput(f"{path} has no item; give at least one")
    return list(items.values())


def evaluate_rm_bench(items: Sequence[Item], scores: Scores, models: Sequence[str]) -> dict[str, Any]:
    """Returns what JSON holds of an evaluation: the matrix and levels of each domain, overall levels, and gains."""
    require_numbers(items, scores)
    parts: dict[str, dict[str, list[int]]] = {}  # domain -> part -> rows
    for row, item in enumerate(items):
        label = item.labels["domain"]
        parts.setdefault(label.partition("-")[0], {}).setdefault(label, []).append(row)
    matrices = {scorer: _make_matrices(scorer, of_items) for scorer, of_items in scores.items()}
    columns: dict[tuple[str, ...], Figures] = {
        (scorer, level): column
        for scorer, matrix in matrices.items()
        for level, column in _average_levels(matrix).items()
    }
    columns |= {
        (model, other, "average"): columns[model, "average"] - columns[other, "average"]
        for model in models
        for other in scores
        if other != model
    }
    overall = _estimate_mean(items, columns, [part for parts_of in parts.values() for part in parts_of.values()],
                    [1 / len(parts) / len(parts_of) for parts_of in parts.values() for _ in parts_of])  # fmt: skip
    domains = {
        domain: _estimate_mean(items, columns, list(parts_of.values()), [1 / len(parts_of)] * len(parts_of))
        for domain, parts_of in parts.items()
    }
    return {
        "num_items": {domain: sum(map(len, parts_of.values())) for domain, parts_of in parts.items()},
        "scorers": {
            scorer: {
                "overall": {level: overall[scorer, level] for level in LEVELS},
                "domains": {
                    domain: {level: domains[domain][scorer, level] for level in LEVELS}
                    | {"matrix": np.mean([matrix[rows].mean(axis=0) for rows in parts_of.values()], axis=0).tolist()}
                    for domain, parts_of in parts.items()
                },
            }
            for scorer, matrix in matrices.items()
        },
        "gains": {m: {other: overall[m, other, "average"] for other in scores if other != m} for m in models},
    }


def _make_matrices(scorer: str, of_items: Sequence[Figures]) -> Figures:
    """Shapes: -> [items, chosen, rejected]. A scorer at random, which ties never, is correct half the time."""
    values = np.array(of_items).reshape(-1, 2, NUM_STYLES)
    if scorer == "random":
        return np.full((len(values), NUM_STYLES, NUM_STYLES), 0.5)
    return (values[:, 0, :, None] > values[:, 1, None, :]).astype(np.float64)


def _average_levels(matrix: Figures) -> dict[str, Figures]:
    above = np.triu_indices(NUM_STYLES, 1)
    easy, hard = matrix[:, above[1], above[0]].mean(axis=1), matrix[:, above[0], above[1]].mean(axis=1)
    normal = np.diagonal(matrix, axis1=1, axis2=2).mean(axis=1)
    return {"easy": easy, "normal": normal, "hard": hard, "average": (easy + normal + hard) / 3}


def _estimate_mean(
    items: Sequence[Item],
    columns: Mapping[tuple[str, ...], Figures],
    parts: Sequence[list[int]],
    weights: Sequence[float],
) -> dict[tuple[str, ...], Estimate]:
    chosen = [{key: column[rows] for key, column in columns.items()} for rows in parts]
    return estimate_mean_of_parts(chosen, [[items[row].cluster for row in rows] for rows in parts], weights)
