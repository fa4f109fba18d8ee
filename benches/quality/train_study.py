"""Trains one reward model in several ways and says what each bought: `python benches train_study MODEL DATA OUT`.

MODEL is a reward model whose head was fitted (`codescaler fit-head`), DATA groups with a split. Every configuration
starts from MODEL and is judged on the validation split; with the best one the share of training problems is varied. An
interrupted study goes on where it was: each run resumes in its own folder under OUT.
"""

import argparse
import dataclasses
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch

from benches.harness.results import RESULTS
from codescaler.commands.info import read_cpu_model
from codescaler.io.records import Group, read_groups
from codescaler.io.tables import format_table
from codescaler.metrics import bootstrap_interval
from codescaler.testing import bench_device, describe_device
from codescaler.train import TrainConfig, TrainReport, fit

CONFIGURATIONS = {
    "full 1e-5": TrainConfig(method="full", learning_rate=1e-5),
    "full 3e-5": TrainConfig(method="full", learning_rate=3e-5),
    "lora 2e-4": TrainConfig(method="lora", learning_rate=2e-4),
}
SHARES = (0.25, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", choices=CONFIGURATIONS, default=[*CONFIGURATIONS])
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--step-tokens", type=int, default=2048)
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="of the problems, for the best one")
    parser.add_argument("--save", help="name of the JSON under benches/results/")
    options = parser.parse_args()

    groups = read_groups(options.data)
    reports: dict[str, TrainReport] = {}

    def run(name: str, config: TrainConfig, some: list[Group]) -> None:
        print(f"--- {name}", file=sys.stderr)
        folder = options.out / name.replace(" ", "-").replace("/", "-")
        # Every half epoch, so that the best moment of a run counts.
        reports[name] = fit(options.model, some, folder, config, resume=True, show_progress=True)

    settings = {"epochs": options.epochs, "step_tokens": options.step_tokens, "evaluate_every": 10}
    for name in options.only:
        run(name, dataclasses.replace(CONFIGURATIONS[name], **settings), groups)
    best = max(reports, key=lambda name: _rank(reports[name]))
    learned = [group for group in groups if group.split != "validation"]
    random.Random(0).shuffle(learned)
    for share in options.shares:
        part = learned[: round(share * len(learned))] + [group for group in groups if group.split == "validation"]
        run(f"{best}, {share:g} of the problems", dataclasses.replace(CONFIGURATIONS[best], **settings), part)

    rows = {name: _list_figures(report) for name, report in reports.items()}
    header = (
        "run",
        "problems",
        "steps",
        "best at",
        "correct pairs",
        "gain over the start",
        "best of N",
        "gain",
        "minutes",
    )
    print(format_table(header, [_format_row(name, figures) for name, figures in rows.items()]))
    before = next(iter(reports.values())).before
    assert before is not None
    print(
        f"\nThe start: correct pairs {before.pair_accuracy:.1%}, best of N {before.best_of_n:.1%}, a blind draw "
        f"{before.chance:.1%}; {len(before.picks)} validation problems. Chosen on them: {best}. Intervals: 95%, paired "
        "bootstrap over problems."
    )
    if options.save:
        result = {
            "command": "python benches train_study MODEL DATA OUT",
            "device": describe_device(bench_device(), read_cpu_model()),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "best": best,
            "start": dataclasses.asdict(before),
            "runs": rows,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"train_study_{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")


def _rank(report: TrainReport) -> tuple[float, float]:
    assert report.best is not None
    return report.best.pair_accuracy, -report.best.loss


def _list_figures(report: TrainReport) -> dict[str, Any]:
    before, best = report.before, report.best
    assert before is not None and best is not None
    # From the log, since a run that was resumed reports what it did itself.
    log = [json.loads(line) for line in (report.output_dir / "log.jsonl").read_text().splitlines()]
    steps = [line for line in log if line["kind"] == "step"]
    figures: dict[str, Any] = {
        "num_problems": report.num_problems,
        "num_pairs": report.num_pairs,
        "num_steps": report.num_steps,
        "best_step": report.best_step,
        "pair_accuracy": best.pair_accuracy,
        "best_of_n": best.best_of_n,
        "loss": best.loss,
        "minutes": sum(line["seconds"] for line in steps) / 60,
        "tokens_per_second": sum(line["num_tokens"] for line in steps) / sum(line["seconds"] for line in steps),
        "learning_rate": max(line["learning_rate"] for line in steps),
    }
    for name, after, start in (
        ("pair_accuracy", best.pair_accuracies, before.pair_accuracies),
        ("best_of_n", best.picks, before.picks),
    ):
        gains = [after[task] - start[task] for task in start]
        figures[f"{name}_gain"] = sum(gains) / len(gains)
        figures[f"{name}_gain_interval"] = bootstrap_interval(gains)
    return figures


def _format_row(name: str, figures: dict[str, Any]) -> tuple[str, ...]:
    def format_gain(of: str) -> str:
        low, high = figures[f"{of}_gain_interval"]
        return f"{figures[f'{of}_gain']:+.1%} [{low:+.1%}, {high:+.1%}]"

    return (
        name,
        str(figures["num_problems"]),
        str(figures["num_steps"]),
        str(figures["best_step"]),
        f"{figures['pair_accuracy']:.1%}",
        format_gain("pair_accuracy"),
        f"{figures['best_of_n']:.1%}",
        format_gain("best_of_n"),
        f"{figures['minutes']:.1f}",
    )


if __name__ == "__main__":
    main()
