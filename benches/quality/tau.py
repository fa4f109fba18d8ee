"""Says how far bfloat16 changes rankings, beside transformers: `python benches tau MODEL GROUPS`.

MODEL is the folder of a reward model, GROUPS are labelled programs as for `python benches ranking`. The figure is
Kendall's tau-b of the scores of a problem's distinct programs in bfloat16 to those in float32, which are codescaler's:
`python benches parity` holds them to transformers'. It is the mean over the validation problems that have a right and a
wrong program. Exit status 1 unless
    mean tau of codescaler >= mean tau of transformers - 0.005.
A CPU without a bfloat16 unit emulates it, slowly: --minutes ends the run early, which then says how far it came.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benches.harness.baselines import TransformersScorer, load_transformers
from benches.harness.options import parse_count, report_progress
from benches.harness.results import RESULTS
from benches.harness.systems import OURS
from benches.quality.ranking import read_splits
from codescaler.commands.info import describe_environment
from codescaler.engine import Engine
from codescaler.io.records import Group
from codescaler.io.tables import format_table
from codescaler.metrics import bootstrap_interval
from codescaler.text.chat import load_chat, make_messages

TRANSFORMERS = "transformers, sorted, by fours"
ALLOWED_LOSS = 0.005


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args(options)
    torch.set_num_threads(arguments.threads)
    groups = [group for group in read_splits(arguments.groups)["validation"] if is_mixed(group)]
    chat = load_chat(arguments.model)
    truth = Engine.from_pretrained(arguments.model, device="cpu", dtype="float32").score_tokens
    scorers = {
        OURS: Engine.from_pretrained(arguments.model, device="cpu", dtype="bfloat16").score_tokens,
        TRANSFORMERS: TransformersScorer(load_transformers(arguments.model, torch.bfloat16), batch_size=4).score_tokens,
    }
    taus: dict[str, list[float]] = {name: [] for name in scorers}
    deadline = time.monotonic() + 60 * arguments.minutes
    for group in groups:
        texts = [chat.render(make_messages((group.prompt, code))) for code in group.codes]
        ids = [array.tolist() for array in chat.encode(texts)]
        exact = truth(ids)
        for name, score in scorers.items():
            taus[name].append(kendall_tau(score(ids), exact))
        report_progress(f"{group.task_id}: " + ", ".join(f"{name} {values[-1]:.3f}" for name, values in taus.items()))
        if time.monotonic() > deadline:
            break
    means = {name: float(np.mean(values)) for name, values in taus.items()}
    count, holds = len(taus[OURS]), means[OURS] >= means[TRANSFORMERS] - ALLOWED_LOSS  # NaN does not
    print(f"Kendall's tau of bfloat16 to float32 scores, {count} of {len(groups)} mixed validation problems")
    intervals = {name: bootstrap_interval(values) for name, values in taus.items()}
    print(
        format_table(
            ("", "mean tau", "95% interval"),
            [(name, f"{mean:.4f}", "[{:.4f}, {:.4f}]".format(*intervals[name])) for name, mean in means.items()],
        )
    )
    print(f"{'PASS' if holds else 'FAIL'}: codescaler's mean may be {ALLOWED_LOSS} below transformers'")
    if arguments.save:
        values = {
            **describe_environment("auto", "transformers"),
            "groups": arguments.groups.name,
            "num_problems": count,
            "num_mixed_problems": len(groups),
            "mean_tau": means,
            "interval": intervals,
            "tau": taus,
            "holds": holds,
        }
        path = RESULTS / f"tau_{arguments.save}.json"
        path.write_text(json.dumps(values, indent=2) + "\n")
        report_progress(f"wrote {path}")
    return 0 if holds else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches tau", description=__doc__.partition("\n\n")[0])
    parser.add_argument("model", type=Path, help="folder of a reward model")
    parser.add_argument("groups", type=Path, help="JSON lines of labelled programs with a field split; .gz too")
    parser.add_argument("--threads", type=parse_count, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no problem after so many")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benches/results/tau_NAME.json")
    return parser


def is_mixed(group: Group) -> bool:
    """Says whether a problem has a correct and an incorrect program."""
    return {bool(c.passed) for c in group.candidates if c.code is not None} == {False, True}


def kendall_tau(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Returns the agreement of two orders, from -1 to 1; a tie in one of them only costs a part of it.

    tau-b = sum s t / sqrt(sum s^2 sum t^2), s and t the signs of differences over all pairs; 0 if one is all ties.
    Source: Kendall 1945, The treatment of ties in ranking problems.
    """
    s, t = (np.sign(np.subtract.outer(values, values)) for values in map(np.asarray, (left, right)))
    untied = float(np.square(s).sum() * np.square(t).sum())  # NaN where a score is
    return float((s * t).sum()) / untied**0.5 if untied else 0.0


if __name__ == "__main__":
    sys.exit(main())
