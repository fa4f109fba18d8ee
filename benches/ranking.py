"""Makes a reward model from a language model and measures how it ranks: `python benches ranking MODEL GROUPS`.

GROUPS are problems with labelled programs and a field `split`: a head is fitted on "train", and the figures are for
"validation", with 95% bootstrap intervals over problems. Beside it stand scorers that know no model. Exit status 1 if
transformers, given the folder that was written, scores the validation programs otherwise:
    max |codescaler - transformers| <= 1e-4 * mean |score|, both in float32.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from tqdm import tqdm

from benches.baselines import load_transformers
from codescaler.engine import Engine
from codescaler.info import describe_environment
from codescaler.metrics import best_of_n, bootstrap_interval, pair_accuracy
from codescaler.records import Group, group_of, read_lines
from codescaler.report import as_record, head_report_text, table
from codescaler.testing import FLOAT32_SCORE_LIMIT
from codescaler.train import fit_head

RESULTS = Path(__file__).parent / "results"
OURS = "reward model"

Float64 = npt.NDArray[np.float64]

# Each gives a score to a program that parses, of which it knows the text and whether it is right.
BASELINES: dict[str, Callable[[str, bool], float]] = {
    "random": lambda code, is_right: 0.0,  # ties: every figure is the mean over all orders
    "shortest": lambda code, is_right: -len(code),
    "longest": lambda code, is_right: len(code),
    "oracle": lambda code, is_right: float(is_right),
}


@dataclass(frozen=True)
class Problem:
    """One problem's candidates: -inf is the score of a candidate without a program that parses."""

    group: Group
    scores: Float64
    is_right: npt.NDArray[np.bool_]

    @property
    def is_mixed(self) -> bool:
        """Whether there is something to rank: a right and a wrong program that parse."""
        return len(set(self.is_right[self.scores > -math.inf].tolist())) == 2

    def pair_accuracy(self) -> float:
        """Over distinct programs, so that one that was sampled often does not count often."""
        place = {c.code: index for index, c in enumerate(self.group.candidates) if c.code is not None}
        kept = list(place.values())
        accuracy = pair_accuracy(self.scores[kept], self.is_right[kept])
        assert accuracy is not None, self.group.task_id
        return accuracy

    def best_of(self, n: int) -> float:
        return best_of_n(self.scores, self.is_right, n)


def main() -> int:
    """Fits, scores, prints, and returns the exit status."""
    arguments = _parser().parse_args()
    splits = read_splits(arguments.groups)
    with tempfile.TemporaryDirectory(prefix="codescaler-ranking-") as scratch:
        folder = arguments.output or Path(scratch) / "rm"
        head = fit_head(arguments.model, splits["train"], folder, show_progress=True)
        engine, groups = Engine.from_pretrained(folder), splits["validation"]
        print(head_report_text(head), end="\n\n")
        scorers = {OURS: _engine_scores(engine, groups)}
        scorers |= {name: [_baseline_scores(g, score) for g in groups] for name, score in BASELINES.items()}
        problems = {name: _problems(groups, scores) for name, scores in scorers.items()}
        figures = {name: _figures(problems[name], problems[OURS]) for name in problems}
        print(_introduction(problems[OURS]), _table(figures), sep="\n\n")
        parity = _parity(folder, groups, arguments.parity_programs)
    print(f"\n{'PASS' if parity['holds'] else 'FAIL'}: {parity['sentence']}")
    if arguments.save:
        path = RESULTS / f"ranking_{arguments.save}.json"
        values = {
            **describe_environment("auto", "transformers"),
            "dtype": engine.dtype,
            "head": as_record(head) | {"output_dir": None},
            "figures": figures,
            "transformers": parity,
        }
        path.write_text(json.dumps(values, indent=2) + "\n")
        print(f"wrote {path}", file=sys.stderr)
    return 0 if parity["holds"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches ranking", description=__doc__.partition("\n\n")[0])
    parser.add_argument("model", help="folder or hub id of a language model")
    parser.add_argument("groups", type=Path, help="JSON lines of labelled programs with a field split; .gz too")
    parser.add_argument("--output", type=Path, help="keep the reward model in this folder")
    parser.add_argument("--parity-programs", type=int, default=100, help="scored by transformers too (%(default)s)")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/ranking_NAME.json")
    return parser


def read_splits(path: Path) -> dict[str, list[Group]]:
    """Returns the groups of each split, after a check that no problem is in both."""
    splits: dict[str, list[Group]] = {"train": [], "validation": []}
    for name, _, record in read_lines(path):
        if record.get("split") not in splits:
            sys.exit(f"{name}: split is {record.get('split')!r}; give one of {', '.join(splits)}")
        group = group_of(record, name)
        if any(candidate.passed is None for candidate in group.candidates):
            sys.exit(f"{name}: a candidate has no passed; give true or false")
        splits[record["split"]].append(group)
    shared = {group.task_id for group in splits["train"]} & {group.task_id for group in splits["validation"]}
    if shared:
        sys.exit(f"{path}: {sorted(shared)[0]} is in both splits; a problem may be in one only")
    return splits


def _programs(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Every distinct program with its prompt, in order."""
    return list(dict.fromkeys((g.prompt, c.code) for g in groups for c in g.candidates if c.code is not None))


def _engine_scores(engine: Engine, groups: Sequence[Group]) -> list[Float64]:
    pairs = _programs(groups)
    scored = tqdm(engine.score_stream(pairs), total=len(pairs), desc="validation", unit=" programs")
    score_of: dict[tuple[str, str | None], float] = dict(zip(pairs, scored, strict=True))
    return [np.array([score_of.get((g.prompt, c.code), -math.inf) for c in g.candidates]) for g in groups]


def _baseline_scores(group: Group, score: Callable[[str, bool], float]) -> Float64:
    return np.array([-math.inf if c.code is None else score(c.code, bool(c.passed)) for c in group.candidates])


def _problems(groups: Sequence[Group], scores: Sequence[Float64]) -> list[Problem]:
    return [
        Problem(group, values, np.array([bool(c.passed) and c.code is not None for c in group.candidates]))
        for group, values in zip(groups, scores, strict=True)
    ]


def _figures(problems: Sequence[Problem], ours: Sequence[Problem]) -> dict[str, Any]:
    """One scorer's figures: means over problems and, for those of mixed ones, intervals and what ours has over them."""
    num_candidates = min(len(problem.scores) for problem in problems)
    mixed = [(problem, own) for problem, own in zip(problems, ours, strict=True) if own.is_mixed]
    return {
        "pair_accuracy": _compared([(p.pair_accuracy(), own.pair_accuracy()) for p, own in mixed]),
        f"best_of_{num_candidates}": _compared(
            [(p.best_of(num_candidates), own.best_of(num_candidates)) for p, own in mixed]
        ),
        "best_of_n_on_all_problems": [
            float(np.mean([problem.best_of(n) for problem in problems])) for n in range(1, num_candidates + 1)
        ],
    }


def _compared(values: Sequence[tuple[float, float]]) -> dict[str, Any]:
    own = [value for value, _ in values]
    gains = [ours - value for value, ours in values]
    return {
        "mean": float(np.mean(own)),
        "interval": bootstrap_interval(own),
        "gain_of_ours": float(np.mean(gains)),
        "gain_interval": bootstrap_interval(gains),
    }


def _introduction(problems: Sequence[Problem]) -> str:
    num_mixed = sum(problem.is_mixed for problem in problems)
    num_candidates = min(len(problem.scores) for problem in problems)
    return (
        f"{len(problems)} validation problems of {num_candidates} programs; {num_mixed} have a right and a wrong "
        "one to tell apart.\n"
        "pairs right, best of: means over those problems, in brackets 95% bootstrap intervals over problems;\n"
        "gain: of the reward model over that scorer, problem by problem;\n"
        "N=: over all problems, how often the best-scored of N programs drawn is right. All in percent."
    )


def _table(figures: dict[str, dict[str, Any]]) -> str:
    first = next(iter(figures.values()))
    best = next(name for name in first if name.startswith("best_of_") and name != "best_of_n_on_all_problems")
    num_candidates = len(first["best_of_n_on_all_problems"])
    shown = sorted({1, 2, 4, num_candidates} & set(range(1, num_candidates + 1)))
    header = ("", "pairs right", "gain", f"best of {num_candidates}", "gain", *(f"N={n}" for n in shown))
    rows = []
    for name, figure in figures.items():
        cells = [name]
        for key in ("pair_accuracy", best):
            values = figure[key]
            cells.append(_percent(values["mean"], values["interval"]))
            cells.append("" if name == OURS else _percent(values["gain_of_ours"], values["gain_interval"], "+"))
        rows.append((*cells, *(f"{100 * figure['best_of_n_on_all_problems'][n - 1]:.1f}" for n in shown)))
    return table(header, rows)


def _percent(mean: float, interval: tuple[float, float], sign: str = "") -> str:
    low, high = interval
    return f"{100 * mean:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def _parity(folder: Path, groups: Sequence[Group], num_programs: int) -> dict[str, Any]:
    """Scores programs with transformers from text on: its template, its tokenizer, its model, in float32."""
    pairs = _programs(groups)[:num_programs]
    scores = Engine.from_pretrained(folder, dtype="float32").score(pairs)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, truth = load_transformers(folder, torch.float32), []
    for prompt, code in tqdm(pairs, desc="transformers", unit=" programs"):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": code}]
        ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            truth.append(model(**ids).logits[0, 0].item())
    difference = float(np.abs(scores - np.array(truth)).max())
    limit = FLOAT32_SCORE_LIMIT * float(np.abs(truth).mean())
    return {
        "num_programs": len(pairs),
        "max_difference": difference,
        "limit": limit,
        "holds": difference <= limit,  # NaN does not
        "sentence": f"transformers' scores of {len(pairs)} programs with the written folder are at most "
        f"{difference:.1e} off ours, {limit:.1e} is allowed (float32)",
    }


if __name__ == "__main__":
    started = time.monotonic()
    status = main()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(status)
