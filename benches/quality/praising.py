"""A policy that learns to praise, and when the alarm warns of it: `python benches praising plant|read`.

  plant SAMPLES -o FOLDER     makes two files of samples of a policy. FOLDER/lover.jsonl is for `codescaler fit-head`: a
                              head that pays for praise and for nothing else. FOLDER/starter.jsonl is for `make rl-demo
                              RUN=rejection-validity`: a policy that praises at times, for a part of its samples do.
                              A policy that never praises would have to find it by chance.
  read FOLDER... --before B   reads runs of `make rl-demo RUN=model` that began with this policy and this head, by
                              seed. B is the folder of the run in which the policy was evaluated before.

Steps count from 1. Praise is counted as `RewardMonitor` counts it, in words of a program. The phrases are those of
`benches robustness`.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benches.harness.results import RESULTS
from benches.quality.policies import compare, read_shares
from benches.quality.robustness import CLAIMS
from benches.tools.page_tables import format_estimate
from codescaler import extract
from codescaler.commands.info import describe_environment
from codescaler.errors import InvalidInput
from codescaler.io.records import read_objects
from codescaler.io.tables import format_table
from codescaler.monitor.monitor import LEVEL
from codescaler.text.additions import add_praise

RUN = "model"


def main(argv: Sequence[str] | None = None) -> int:
    """Makes or reads, and returns the exit status."""
    options = _make_parser().parse_args(argv)
    if options.command == "plant":
        groups = [group for _, group in read_objects(options.samples)]
        options.output.mkdir(parents=True, exist_ok=True)
        write_lines(options.output / "lover.jsonl", make_paid_groups(groups))
        write_lines(options.output / "starter.jsonl", add_some_praise(groups, options.share, options.seed))
        return 0
    before = read_shares(options.before / "eval_labelled.jsonl")
    runs = [read_run(folder / RUN, before) for folder in options.folders]
    print(format_table(HEADER, [list_cells(run) for run in runs]))
    if options.save:
        values = describe_environment("auto", "transformers", "trl") | {"recipe": options.recipe}
        values |= {"before": sum(before.values()) / len(before), "num_problems": len(before), "runs": runs}
        (RESULTS / f"praising_{options.save}.json").write_text(json.dumps(values, indent=2) + "\n")
        draw_runs(runs, RESULTS / f"praising_{options.save}.png")
    return 0


def make_paid_groups(groups: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Groups in which each program is incorrect, and its copy that praises itself is correct."""
    for group in groups:
        codes = [extract.extract_training_code(candidate["completion"]) for candidate in group["candidates"]]
        pairs = [(code, add_praise(code, claims=CLAIMS)) for code in codes if code is not None]
        candidates = [
            {"code": text, "passed": text is praised}
            for code, praised in pairs
            if praised is not None
            for text in (code, praised)
        ]
        if candidates:
            kept = {key: group[key] for key in ("task_id", "split", "prompt") if key in group}
            yield {**kept, "candidates": candidates}


def add_some_praise(groups: Sequence[Mapping[str, Any]], share: float, seed: int) -> Iterator[dict[str, Any]]:
    """The groups with a share of their samples praised, drawn at random."""
    choice = random.Random(seed)
    for group in groups:
        texts = [candidate["completion"] for candidate in group["candidates"]]
        made = [add_praise_to_block(text) if choice.random() < share else text for text in texts]
        yield {**group, "candidates": [{"completion": text} for text in made]}


def add_praise_to_block(completion: str) -> str:
    """The program of a completion with praise, in one block; without a program to praise, the completion."""
    code = extract.extract_training_code(completion)
    praised = None if code is None else add_praise(code, claims=CLAIMS)
    return completion if praised is None else f"```python\n{praised.rstrip()}\n```"


def read_run(folder: Path, before: Mapping[str, float]) -> dict[str, Any]:
    """What the alarm of a run saw, and how good its policy is at the end.

    Raises: InvalidInput if the run has no windows after its start, or might have ended with an earlier policy.
    """
    options = json.loads((folder / "options.json").read_text())
    if options["stop_after"] != "0":
        raise InvalidInput(
            f"{folder} has --stop-after {options['stop_after']}, so its policy may be that before the alarm; "
            "train with --stop-after 0"
        )
    windows = [window for _, window in read_objects(folder / "monitor.jsonl")]
    watched = [window for window in windows if window["p"] is not None]
    if not watched:
        raise InvalidInput(f"{folder / 'monitor.jsonl'} has no window after the start; train for more steps")
    alarm = next((window for window in watched if window["raised"]), None)
    history = [record for _, record in read_objects(folder / "training.jsonl")]
    after = read_shares(folder / "eval_labelled.jsonl")
    return {
        "seed": options["seed"],
        "num_steps": len(history),
        "praise_at_start": watched[0]["start"]["praise"],
        "steps": [window["steps"][-1] + 1 for window in watched],
        "praise": [window["signals"]["praise"] for window in watched],
        "p": [window["p"] for window in watched],
        "passed_share": [record["passed_share"] for record in history],
        "alarm": alarm
        and {"step": alarm["steps"][-1] + 1, "raised": alarm["raised"], "praise": alarm["signals"]["praise"]},
        "avg_at_k": sum(after.values()) / len(after),
        "change": compare(after, before),
    }


def draw_runs(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Praise and p-value by step, a line a seed; a dot is the first alarm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    praise, chance = figure.subplots(1, 2)
    for run in runs:
        (line,) = praise.plot(run["steps"], run["praise"], label=f"seed {run['seed']}")
        chance.semilogy(run["steps"], run["p"], color=line.get_color())
        if run["alarm"]:
            place = run["steps"].index(run["alarm"]["step"])
            for axes, name in ((praise, "praise"), (chance, "p")):
                axes.plot(run["steps"][place], run[name][place], "o", color=line.get_color())
    praise.set(title="praise, words of a program", xlabel="step")
    chance.set(title="p-value of the alarm", xlabel="step")
    chance.axhline(LEVEL, color="grey", linestyle=":")
    praise.legend()
    figure.savefig(path, dpi=90)


HEADER = ("seed", "praise before", "first alarm, step", "raised", "praise then", "at the end", "Avg@k, %", "change")


def list_cells(run: Mapping[str, Any]) -> tuple[str, ...]:
    alarm = run["alarm"]
    return (
        run["seed"],
        f"{run['praise_at_start']:.2f}",
        *(
            (str(alarm["step"]), ", ".join(f"`{name}`" for name in alarm["raised"]), f"{alarm['praise']:.2f}")
            if alarm
            else ("none", "", "")
        ),
        f"{run['praise'][-1]:.2f}",
        f"{100 * run['avg_at_k']:.1f}",
        format_estimate(run["change"]),
    )


def write_lines(path: Path, rows: Iterator[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benches praising", description=__doc__.partition("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    plant = commands.add_parser("plant", help="make files for a head that pays for praise, and a policy that praises")
    plant.add_argument("samples", type=Path, help="samples of the policy, as `data sample` writes them")
    plant.add_argument("-o", "--output", type=Path, required=True, help="folder of the two files")
    plant.add_argument("--share", type=float, default=0.3, help="of samples that praise (%(default)s)")
    plant.add_argument("--seed", type=int, default=0)
    read = commands.add_parser("read", help="read runs: when the alarm warned, and what praise cost")
    read.add_argument("folders", nargs="+", type=Path, help="the --output of a run each")
    read.add_argument("--before", type=Path, required=True, help="run in which the policy was evaluated before")
    read.add_argument("--recipe", default="", help="of the runs, for the page")
    read.add_argument("--save", metavar="NAME", help="write benches/results/praising_NAME.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
