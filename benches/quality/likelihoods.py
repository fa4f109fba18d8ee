"""How a language model without a head ranks: `python benches likelihoods MODEL GROUPS --split validation`.

One table has the likelihood scorers of MODEL (sum, mean, least token, reviewer, coder_reviewer), a reward model, and
each of them with the reward model (`--combine z`), beside the baselines of `eval bon`. The five scorers are made of two
passes: programs after problems, and problems after programs. GROUPS with a correct and an incorrect program count.

A language model may have read published problems and their solutions, and then a likelihood is a memory.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches.harness.results import RESULTS
from codescaler.commands.info import describe_environment
from codescaler.engine import Engine
from codescaler.evaluate.best_of_n import evaluate_best_of_n
from codescaler.evaluate.combination import combine_units
from codescaler.evaluate.problems import EvaluationProblem, read_evaluation_problems
from codescaler.evaluate.scorers import score_with_all, score_with_engine
from codescaler.evaluate.tables import format_best_of_n
from codescaler.metrics import Figures

REDUCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "likelihood": np.sum,
    "likelihood_mean": np.mean,
    "likelihood_min": np.min,
}


def main(options: Sequence[str] | None = None) -> int:
    """Scores, prints, and saves."""
    arguments = _make_parser().parse_args(options)
    problems = [p for p in read_evaluation_problems(arguments.groups, split=arguments.split) if p.is_mixed]
    seconds: dict[str, float] = {}
    scores = _score_with_language_model(arguments.model, arguments.dtype, problems, seconds)
    reward = Engine.from_pretrained(arguments.reward_model)
    started = time.monotonic()
    scores[arguments.reward_model] = score_with_engine(reward, problems, arguments.reward_model)
    seconds["reward"] = time.monotonic() - started
    combined = {
        f"z({arguments.reward_model} + {name})": combine_units(
            problems,
            {key: scores[key] for key in (arguments.reward_model, name)},
            {arguments.reward_model: 1.0, name: 1.0},
        )
        for name in scores
        if name != arguments.reward_model
    }
    figures = evaluate_best_of_n(problems, {**scores, **combined, **score_with_all(problems, {})}, [*scores, *combined])
    print(format_best_of_n(figures))
    num_programs = len({response.pair.turns for problem in problems for response in problem.responses})
    for name, took in seconds.items():
        print(f"{name}: {1000 * took / num_programs:.0f} ms a program")
    if arguments.save:
        path = RESULTS / f"likelihoods_{arguments.save}.json"
        values = {
            **describe_environment("auto", "transformers"),
            "groups": arguments.groups.name,
            "split": arguments.split,
            "reward_model": arguments.reward_model,
            "dtypes": {"language model": arguments.dtype, "reward model": reward.dtype},
            "num_programs": num_programs,
            "seconds": seconds,
            "figures": figures,
        }
        path.write_text(json.dumps(values, indent=2) + "\n")
        print(f"wrote {path}", file=sys.stderr)
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches likelihoods", description=__doc__.partition("\n\n")[0])
    parser.add_argument("model", help="folder or hub id of a language model")
    parser.add_argument("groups", type=Path, help="JSON lines of labelled programs; .gz too")
    parser.add_argument("--split", help="use the groups of this split only")
    parser.add_argument("--reward-model", default="nano", help="beside which they stand (%(default)s)")
    parser.add_argument("--dtype", default="float32", help="of the language model (%(default)s)")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/likelihoods_NAME.json")
    return parser


def _score_with_language_model(
    model: str, dtype: str, problems: Sequence[EvaluationProblem], seconds: dict[str, float]
) -> dict[str, list[Figures]]:
    """Returns the scores of every likelihood scorer, from one pass in each direction."""
    engine = Engine.from_pretrained(model, head="none", dtype=dtype)
    scores: dict[str, list[Figures]] = {name: [] for name in (*REDUCTIONS, "reviewer", "coder_reviewer")}
    seconds |= dict.fromkeys(("program after its problem", "problem after its program"), 0.0)
    for number, problem in enumerate(problems):
        pairs = list(dict.fromkeys(response.pair for response in problem.responses))
        found = []
        for direction, name in (("program", "program after its problem"), ("problem", "problem after its program")):
            started = time.monotonic()
            found.append(dict(zip(pairs, engine.log_probs(pairs, of=direction), strict=True)))
            seconds[name] += time.monotonic() - started
        programs, texts = ([of[response.pair] for response in problem.responses] for of in found)
        for name, reduce in REDUCTIONS.items():
            scores[name].append(np.array([reduce(part) for part in programs], dtype=np.float64))
        scores["reviewer"].append(np.array([np.sum(part) for part in texts], dtype=np.float64))
        scores["coder_reviewer"].append(scores["likelihood"][-1] + scores["reviewer"][-1])
        print(f"{number + 1} of {len(problems)} problems", file=sys.stderr)
    return scores


if __name__ == "__main__":
    sys.exit(main())
