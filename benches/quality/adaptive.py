"""What can an adaptive ranking promise, and what does it save? `python benches adaptive GROUPS --cascade`, with --rm.

Each problem's first N candidates are ranked by each reward model. Candidates are dropped by the scores of

  frozen    exits that read the model's own head at an eighth, a quarter, a half and two thirds of its layers
  trained   exits with heads of their own, fitted to the model's last scores
  cascade   nano, before the first layer
  ceiling   exits that know the last score: all but the winner go at the first

For each promise, of the first score or of order, margins are chosen on one part of the problems, and counted on the
other, as `codescaler fit-exits` does. Every row of a run is shown, so that none was selected by its count. Where the
same problems were counted by an earlier run, what is kept is an estimate and no certificate.

Early scores are products of the features in float64, which a forward has in float32. Work is distinct tokens times
layers, of a cascade times weights. With --fill a problem has more programs than were sampled: mutants and rewritten
copies of them, in turn. What holds for these is no promise for samples.

The speed is that of forwards with the trained exits, next to dense ones: problems alone, and eight at a time, in one
interleaved run.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from tqdm import tqdm

from benches.harness.results import RESULTS
from codescaler.commands.info import describe_environment
from codescaler.commands.options import parse_models
from codescaler.data.augment import rewrite_program
from codescaler.data.mutants import make_mutants
from codescaler.engine import Engine
from codescaler.engine.adaptive import ExitScores, describe_engine
from codescaler.engine.exits import DROPPED, Exits, Rule, choose_layers, simulate
from codescaler.engine.scheduler import Float32
from codescaler.errors import InvalidInput
from codescaler.io.records import Candidate, Group, read_groups
from codescaler.io.resumable import compute_digest
from codescaler.io.tables import format_table
from codescaler.text.extract import parse_syntax_tree
from codescaler.text.rewriting import REWRITES, find_callers_names
from codescaler.train.exits import Contest, count_multiplications, fit_heads, read_contests, split_contests
from codescaler.train.margins import (
    MIN_CHOSEN,
    ScoredProblem,
    Work,
    certify,
    choose_miss_chances,
    choose_num_counted,
    choose_rule,
)
from codescaler.types import Promise

CONFIDENCE = 0.95
NUM_TOGETHER = 8
_DIGEST = "/digest"  # beside kept features, which are named by task
STRICTEST = 0.01  # limit of the promise by which problems are chosen or counted


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns the exit status."""
    options = _make_parser().parse_args(argv)
    groups = [replace(group, candidates=group.candidates[: options.n]) for group in read_groups(options.groups)]
    if options.fill:
        groups = [fill_group(group, options.fill) for group in groups]
    chosen, counted = split(read_contests(groups, asked_first=False))
    contests = [*chosen, *counted]
    small = _Model("nano", "nano", options) if options.cascade else None
    seen_small = None if small is None else small.compute_features(contests)
    rows: list[dict[str, Any]] = []
    speeds: dict[str, Any] = {}
    for name, named in parse_models(options.rm).items():
        model = _Model(name, named.folder, options)
        features = model.compute_features(contests)
        sources = model.list_sources(features, len(chosen))
        if small is not None and seen_small is not None and name != small.name:
            share = count_multiplications(small.engine.config) / count_multiplications(model.engine.config)
            pairs = zip(seen_small, features, strict=True)
            values = [np.stack([first[:, -1], last[:, -1]], axis=1) for first, last in pairs]
            sources["cascade"] = (values, Work.of_cascade(share))
        ceiling = [np.stack([part[:, -1]] * (len(model.layers) + 1), axis=1) for part in features]
        sources["ceiling"] = (ceiling, Work.of_exits(model.layers, model.engine.config.num_layers))
        for kind, (values, work) in sources.items():
            problems = model.join(contests, values)
            wanted = itertools.product(get_args(Promise), options.at_most)
            rows += [
                {"model": name, "exits": kind, **measure(problems, len(chosen), work, promise, at_most)}
                for promise, at_most in ([("first", options.at_most[0])] if kind == "ceiling" else wanted)
            ]
        if options.speed:
            tried = [r for r in rows if (r["model"], r["exits"], r["promise"]) == (name, "trained", "first")]
            row = next((row for row in tried if row["is_kept"]), tried[-1])
            speeds[name] = model.measure_speed(counted[: options.speed], row)
            print(json.dumps({name: speeds[name]}), flush=True)
    print(_format(rows))
    if options.save:
        sizes = [len(contest.pairs) for contest in contests]
        record = describe_environment("auto", "torch") | {"n": options.n, "fill": options.fill}
        record |= {"num_problems": len(contests), "mean_programs": float(np.mean(sizes))}
        record |= {"confidence": CONFIDENCE, "rows": rows, "speed": speeds}
        (RESULTS / f"adaptive_{options.save}.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches adaptive", description=__doc__.partition("\n\n")[0])
    parser.add_argument("groups", type=Path, help="JSON lines of problems and candidates")
    parser.add_argument("--rm", action="append", default=["nano"], metavar="NAME=FOLDER")
    parser.add_argument("--cascade", action="store_true", help="nano before each other model too")
    parser.add_argument("-n", type=int, default=8, help="candidates of a problem (%(default)s)")
    parser.add_argument("--fill", type=int, default=0, metavar="N", help="up to N programs, with mutants and copies")
    parser.add_argument("--at-most", type=float, nargs="+", default=[0.01, 0.02, 0.05], metavar="SHARE")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--features", type=Path, metavar="FOLDER", help="keep features here, for another run")
    parser.add_argument("--speed", type=int, default=0, metavar="N", help="measure the speed on N problems")
    parser.add_argument("--save", metavar="NAME", help="write benches/results/adaptive_NAME.json")
    return parser


def fill_group(group: Group, num: int) -> Group:
    """A group of up to `num` distinct programs: behind its own, a mutant and a rewritten copy of each in turn."""
    keep = find_callers_names(group.prompt)
    made = [_vary(code, num, keep) for code in group.codes if parse_syntax_tree(code) is not None]
    filled = dict.fromkeys(group.codes)
    for variants in itertools.zip_longest(*made):
        filled.update(dict.fromkeys(code for code in variants if code is not None))
    return replace(group, candidates=tuple(Candidate(code) for code in [*filled][:num]))


def _vary(code: str, num: int, keep: set[str]) -> Iterator[str]:
    """Yields mutants and copies in turn."""
    copies = (rewrite_program(rewrite, code, seed, keep) for seed, rewrite in enumerate(REWRITES))
    for pair in itertools.zip_longest(make_mutants(code, num, seed=0), filter(None, copies)):
        yield from filter(None, pair)


class _Model:
    """A reward model, and the weights of its exits once they are fitted."""

    def __init__(self, name: str, folder: str, options: argparse.Namespace) -> None:
        self.name = name
        self.engine = Engine.from_pretrained(folder, dtype=options.dtype, prefix_memory_bytes=0)
        self.layers = choose_layers(self.engine.config.num_layers)
        self._heads: tuple[torch.Tensor, torch.Tensor] | None = None
        self._kept = None if options.features is None else options.features / f"{name}.npz"

    def compute_features(self, contests: Sequence[Contest]) -> list[Float32]:
        """Returns each problem's features at the exits, then the scores: [N, exits * D + 1]."""
        if self._kept is not None and self._kept.is_file():
            held = np.load(self._kept)
            if _DIGEST not in held or str(held[_DIGEST]) != self._describe(contests):
                raise InvalidInput(f"{self._kept} has features of other programs, layers or weights; remove it")
            return [held[contest.task_id] for contest in contests]
        exits, features = Exits(self.layers), []
        for part in tqdm(_cut(contests, NUM_TOGETHER), desc=self.name, file=sys.stderr):
            futures = [self.engine.submit_stages(contest.pairs, exits) for contest in part]
            features += [future.result() for future in futures]
        if self._kept is not None:
            named = {c.task_id: part for c, part in zip(contests, features, strict=True)}
            np.savez(self._kept, **{_DIGEST: np.array(self._describe(contests))}, **named)
        return features

    def _describe(self, contests: Sequence[Contest]) -> str:
        """A digest of all that features depend on."""
        made_with = json.dumps([describe_engine(self.engine), self.layers])
        return compute_digest([made_with, *(repr(contest) for contest in contests)])

    def list_sources(self, features: Sequence[Float32], num_chosen: int) -> dict[str, tuple[list[Float32], Work]]:
        """Returns the values of all problems by kind of exit. Heads are fitted to other problems than they score."""
        work = Work.of_exits(self.layers, self.engine.config.num_layers)
        sizes = [len(part) for part in features]
        rows = np.concatenate(features).astype(np.float64)
        x, scores = rows[:, :-1].reshape(len(rows), len(self.layers), -1), rows[:, -1:]
        own = self.engine._decoder.head_weight
        sources = {}
        if own is not None:
            frozen = np.concatenate([x @ own[0].double().cpu().numpy(), scores], axis=1)
            sources["frozen"] = (_split(frozen, sizes), work)
        num_fitted = sum(sizes[:num_chosen])
        problem = np.repeat(np.arange(num_chosen), sizes[:num_chosen])
        heads, biases, early = fit_heads(x[:num_fitted], scores[:num_fitted, 0], problem)
        early = np.concatenate([early, np.einsum("bsd,sd->bs", x[num_fitted:], heads) + biases])
        self._heads = torch.tensor(heads), torch.tensor(biases)
        return sources | {"trained": (_split(np.concatenate([early, scores], axis=1), sizes), work)}

    def join(self, contests: Sequence[Contest], values: Sequence[Float32]) -> list[ScoredProblem]:
        joined = []
        for contest, part in zip(contests, values, strict=True):
            names = [str(number) for number in range(len(contest.pairs))]
            joined.append(
                ScoredProblem.of(part, self.engine.encoder.encode_pairs(contest.pairs, names, None).sequences)
            )
        return joined

    def measure_speed(self, contests: Sequence[Contest], row: Mapping[str, Any]) -> dict[str, Any]:
        """Returns seconds and layers of tokens of dense and adaptive forwards, alone and together, interleaved."""
        assert self._heads is not None
        early = ExitScores(self.engine, self.layers, *self._heads)
        rule = Rule(tuple(np.inf if margin is None else margin for margin in row["margins"]))
        cut = Exits(self.layers, early._heads, rule)
        figures = {name: row[name] for name in ("at_most", "is_kept")} | {"num_problems": len(contests)}
        for name, num in (("alone", 1), ("together", NUM_TOGETHER)):
            spent = {"dense": np.zeros(2), "adaptive": np.zeros(2)}
            for number, part in enumerate(tqdm(_cut(contests, num), desc=f"{self.name}, {name}", file=sys.stderr)):
                for kind in (("dense", "adaptive"), ("adaptive", "dense"))[number % 2]:
                    before, started = self.engine.num_token_layers, time.perf_counter()
                    futures = [
                        self.engine.submit_stages(contest.pairs, cut)
                        if kind == "adaptive"
                        else self.engine.submit(contest.pairs)
                        for contest in part
                    ]
                    for future in futures:
                        future.result()
                    spent[kind] += time.perf_counter() - started, self.engine.num_token_layers - before
            seconds, layers = spent["dense"] / spent["adaptive"]
            figures[name] = {"speedup": float(seconds), "token_layers": float(layers)}
        return figures


def split(contests: Sequence[Contest]) -> tuple[list[Contest], list[Contest]]:
    """What `fit-exits` would choose on and count for the strictest promise; of too few for that, halves."""
    num_counted = choose_num_counted(len(contests), STRICTEST, CONFIDENCE)
    if len(contests) < num_counted + MIN_CHOSEN:
        num_counted = len(contests) // 2
    return split_contests(contests, num_counted)


def measure(
    problems: Sequence[ScoredProblem], num_chosen: int, work: Work, promise: Promise, at_most: float
) -> dict[str, Any]:
    """Chooses margins on the first problems and counts on the others, as `fit-exits` does."""
    found = problems[num_chosen:]
    (chance,) = choose_miss_chances(len(found), at_most, CONFIDENCE, 1)
    rule = choose_rule(problems[:num_chosen], work, chance, promise=promise)
    made = certify(found, [rule], work, at_most=at_most, confidence=CONFIDENCE, asked_first=False, promise=promise)
    costs = [work.measure(problem, rule) for problem in found]
    return {
        "promise": promise,
        "at_most": at_most,
        "is_kept": made.bound <= at_most,
        "num_chosen": num_chosen,
        "num_counted": made.num_counted,
        "num_missed": made.num_missed,
        "bound": made.bound,
        "margins": [margin if np.isfinite(margin) else None for margin in rule.margins],
        "work": float(np.mean(costs)),
        "dropped": float(np.mean([np.mean(simulate(p.values, rule)[:, -1] == DROPPED) for p in found])),
    }


def _split(values: Any, sizes: Sequence[int]) -> list[Float32]:
    return np.split(values.astype(np.float32), np.cumsum(sizes)[:-1])


def _cut(contests: Sequence[Contest], num: int) -> list[Sequence[Contest]]:
    return [contests[start : start + num] for start in range(0, len(contests), num)]


def _format(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = [
        (
            row["model"],
            row["exits"],
            f"{row['promise']}, {row['at_most']:.0%}",
            "yes" if row["is_kept"] else "no",
            f"{row['num_missed']} of {row['num_counted']}",
            f"{row['bound']:.1%}",
            f"{row['dropped']:.0%}",
            f"{1 / row['work']:.2f}x",
        )
        for row in rows
    ]
    header = ("model", "exits", "promise", "kept", "differ", "bound", "dropped", "less work")
    return format_table(header, shown)


if __name__ == "__main__":
    sys.exit(main())
