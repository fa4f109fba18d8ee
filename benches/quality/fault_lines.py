"""Does a score by line find the faulty line? `python benches fault_lines PAIRS`, with --rm and --language-model.

PAIRS are wrong programs with their repaired twins, whose faulty lines are marked (ConDefects). Each locator orders the
lines of a wrong program, blank ones left out, by suspicion:

  drop             the change of the score of the program that ends there, largest fall first (`Engine.trace`)
  drop in place    the same where the score is read at the line's last token, without the tokens that end a turn
  beside the twin  the change, less that of the line of the repaired program that stands in its place
  drop, own lines  as drop, of lines that the repaired program has not: what `explain` marks in two programs
  changed line     a line that the repaired program has not, drawn blindly: what a diff shows without a model
  longest          the line with most characters
  likelihood       mean log-probability of a line's tokens by a language model, least first
  chance           an order drawn blindly

A figure is how often a faulty line is among the first one, and the first three. Intervals draw tasks. Nothing was
trained or chosen on these programs; whether a model has seen their tasks, its card must say.
"""

import argparse
import gzip
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benches.harness.results import RESULTS
from codescaler.commands.info import describe_environment
from codescaler.commands.options import parse_models
from codescaler.engine import Engine
from codescaler.engine.trace import find_common_lines
from codescaler.io.tables import format_table
from codescaler.metrics import bootstrap_interval
from codescaler.text.program import normalize_program
from codescaler.types import LineScore

NUM_FIRST = (1, 3)
MAX_CHARACTERS = 4000  # of a program; a few are longer than what the models take
CHANCE = "chance"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns the exit status."""
    options = _make_parser().parse_args(argv)
    rows = _read_pairs(options.pairs)[:: options.every]
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    engines = {name: Engine.from_pretrained(model.folder) for name, model in parse_models(options.rm).items()}
    model = None if options.language_model is None else _load_language_model(options.language_model)
    num_left_out = 0
    for row in tqdm(rows, desc="pairs", unit="pair", file=sys.stderr):
        lines, faults = _read_faults(row)
        if max(len(row["wrong"]), len(row["right"])) > MAX_CHARACTERS or not faults:
            num_left_out += 1
            continue
        own = _find_own_lines(lines, normalize_program(row["right"]).split("\n"))
        orders = {"changed line": [float(number not in own) for number in range(len(lines))]}
        orders |= {"longest": [float(-len(line.strip())) for line in lines], CHANCE: None}
        for name, engine in engines.items():
            for locator, values in _measure_suspicions(engine, row, lines, own).items():
                orders[f"{name}, {locator}"] = values
        if model is not None:
            orders["likelihood"] = _measure_likelihood(*model, row["problem"], lines)
        for locator, suspicions in orders.items():
            found[locator][row["task_id"]].append([_find(suspicions, lines, faults, k) for k in NUM_FIRST])
    figures = {locator: _summarize(by_task) for locator, by_task in found.items()}
    print(_format(figures))
    if options.save:
        counts = {"num_pairs": sum(map(len, found[CHANCE].values())), "num_tasks": len(found[CHANCE])}
        counts["num_left_out"] = num_left_out
        record = describe_environment("auto", "transformers") | counts | {"locators": figures}
        (RESULTS / f"fault_lines_{options.save}.json").write_text(json.dumps(record, indent=2) + "\n")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches fault_lines", description=__doc__.partition("\n\n")[0])
    parser.add_argument("pairs", type=Path, help="JSON lines with task_id, problem, wrong, right and fault_lines")
    parser.add_argument("--rm", action="append", default=["nano"], metavar="NAME=FOLDER")
    parser.add_argument("--language-model", type=Path, metavar="FOLDER", help="for likelihood by line")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th pair")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/fault_lines_NAME.json")
    return parser


def _read_pairs(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _read_faults(row: Mapping[str, str]) -> tuple[list[str], set[int]]:
    """Returns the lines of the wrong program as they are scored, and the numbers of the faulty ones; none if unknown.

    Blank lines before a program are not scored, so numbers are less by these.
    """
    text = row["wrong"].replace("\r\n", "\n")
    num_removed = text[: len(text) - len(text.lstrip())].count("\n")
    lines = normalize_program(text).split("\n")
    faults = {int(number) - num_removed for number in row["fault_lines"].split(",")}
    is_known = all(0 < number <= len(lines) and lines[number - 1].strip() for number in faults)
    return lines, faults if is_known else set()


def _find_own_lines(lines: Sequence[str], others: Sequence[str]) -> set[int]:
    """Returns the places of lines that are not of both programs, blank ones left out."""
    common = {first - 1 for first, _ in find_common_lines([lines, others])}
    return {place for place, line in enumerate(lines) if line.strip()} - common


def _measure_suspicions(
    engine: Engine, row: Mapping[str, str], lines: Sequence[str], own: Set[int]
) -> dict[str, list[float]]:
    """Returns the suspicion of each line by each locator of a reward model: less is more suspicious."""
    wrong, right = engine.trace(row["problem"], [row["wrong"], row["right"]])
    in_place = _score_in_place(engine, row["problem"], lines)
    return {
        "drop": [line.change for line in wrong],
        "drop, own lines": [line.change if place in own else math.inf for place, line in enumerate(wrong)],
        "drop in place": np.diff(in_place).tolist(),
        "beside the twin": [
            line.change - (0.0 if twin is None else twin.change)
            for line, twin in zip(wrong, _align(wrong, right), strict=True)
        ],
    }


def _align(wrong: Sequence[LineScore], right: Sequence[LineScore]) -> list[LineScore | None]:
    """Returns the line of the repaired program in place of each line, None where it has none."""
    twins: list[LineScore | None] = [None] * len(wrong)
    matcher = SequenceMatcher(None, [line.text for line in wrong], [line.text for line in right], autojunk=False)
    for _, start, end, other_start, other_end in matcher.get_opcodes():
        for offset in range(min(end - start, other_end - other_start)):
            twins[start + offset] = right[other_start + offset]
    return twins


def _score_in_place(engine: Engine, problem: str, lines: Sequence[str]) -> list[float]:
    """Returns the score at the last token before the program, and at that of each line."""
    sequences, starts = engine.encoder.encode_continuations([(problem, "\n".join(lines))], ["program"])
    ids, start = sequences[0], starts[0]
    ends = [start, *_find_line_ends(engine.encoder.chat.tokenizer, ids, start, lines)]
    scores: list[float] = engine.score_tokens([ids[:end].tolist() for end in ends]).tolist()
    return scores


def _find_line_ends(tokenizer: Any, ids: Sequence[int], start: int, lines: Sequence[str]) -> Iterator[int]:
    """Yields the number of ids through the token that holds the last character of each line."""
    place, reached = start, 0
    decoded = ""
    for number in range(len(lines)):
        reached = len("\n".join(lines[: number + 1]).rstrip())
        while len(decoded) < reached and place < len(ids):
            place += 1
            decoded = tokenizer.decode([int(i) for i in ids[start:place]], skip_special_tokens=False)
        yield place


def _load_language_model(folder: Path) -> tuple[Any, Engine]:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval(), Engine.from_pretrained(
        folder, head="none"
    )


def _measure_likelihood(model: Any, engine: Engine, problem: str, lines: Sequence[str]) -> list[float]:
    sequences, starts = engine.encoder.encode_continuations([(problem, "\n".join(lines))], ["program"])
    ids, start = sequences[0], starts[0]
    with torch.inference_mode():
        logits = model(torch.tensor(ids[None].astype(np.int64))).logits[0, start - 1 : -1].float()
        targets = torch.tensor(ids[start:].astype(np.int64))
        log_probs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].numpy()
    means, before = [], 0
    for end in _find_line_ends(engine.encoder.chat.tokenizer, ids, start, lines):
        means.append(float(log_probs[before : end - start].mean()) if end - start > before else 0.0)
        before = end - start
    return means


def _find(suspicions: Sequence[float] | None, lines: Sequence[str], faults: set[int], k: int) -> float:
    """The chance that a faulty line is among the first k, where ties are broken blindly."""
    numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
    if suspicions is None:
        return 1 - _draw_none(len(numbers), len(faults), k)
    values = {number: suspicions[number - 1] for number in numbers}
    limit = sorted(values.values())[min(k, len(values)) - 1]
    surely = {number for number, value in values.items() if value < limit}
    if surely & faults:
        return 1.0
    tied = {number for number, value in values.items() if value == limit}
    return 1 - _draw_none(len(tied), len(tied & faults), k - len(surely))


def _draw_none(total: int, marked: int, k: int) -> float:
    """The chance that k drawn of `total` hold none of the marked ones."""
    k = min(k, total)
    return math.comb(total - marked, k) / math.comb(total, k)


def _summarize(by_task: Mapping[str, list[list[float]]]) -> dict[str, Any]:
    means = np.array([np.mean(hits, axis=0) for hits in by_task.values()])
    return {
        f"top_{k}": {"mean": float(column.mean()), "interval": bootstrap_interval(column.tolist())}
        for k, column in zip(NUM_FIRST, means.T, strict=True)
    }


def _format(figures: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            *(
                "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in (f["mean"], *f["interval"])))
                for f in figure.values()
            ),
        )
        for name, figure in figures.items()
    ]
    return format_table(("locator", "first is faulty", "one of the first three"), rows)


if __name__ == "__main__":
    sys.exit(main())
