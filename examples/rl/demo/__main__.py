"""Reinforcement learning from start to figures: `python examples/rl/demo RUN --policy FOLDER --problems FILE`.

RUN is one of:

  base        evaluates the policy as it is
  validity    GRPO, 1 for one fenced block that parses
  model       GRPO, the reward model's shaped score
  tests       GRPO, 1 for a program that passes all tests in the sandbox
  mixed       GRPO, the sum of the last two
  rejection   one round of rejection sampling: fine-tunes on the sample of each prompt that the reward model likes best
  rejection-validity, rejection-tests, rejection-mixed
              the same with the other rewards; of equal samples the first is kept

Prompts are the problems of split "train", and figures are of split "validation". A run is a folder of its own. A run
that was killed goes on from its last checkpoint and its last sample, with the same options. `figures.jsonl` beside the
runs has a line each.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from evaluation import evaluate_policy
from rewards import KINDS, make_observer, make_rewards, make_tests_reward, name_models
from training import STOPPED_FILE, train_grpo, train_rejection

from codescaler.data.sample.sampling import choose_tasks
from codescaler.errors import CodescalerError
from codescaler.io.records import read_objects
from codescaler.sandbox import Sandbox
from codescaler.tasks import make_task_record, read_tasks
from codescaler.types import Task

REJECTION = "rejection"


def main() -> None:
    """Trains, evaluates, writes."""
    options = _make_parser().parse_args()
    try:
        name_models(options)
        tasks = [task for task in read_tasks(options.problems) if task.tests is not None]
        for run in options.run:
            make_run(run, tasks, options)
    except CodescalerError as error:
        raise SystemExit(str(error)) from error


def make_run(run: str, tasks: Sequence[Task], options: argparse.Namespace) -> None:
    """Trains and evaluates, unless the run has figures already."""
    folder, figures_file = options.output / run, options.output / "figures.jsonl"
    require_sizes(run, options)
    prompts = {} if run == "base" else choose_problems(tasks, options.train_split, options.train_limit)
    held_out = choose_problems(tasks, options.eval_split, options.eval_limit)
    goes_on = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    require_same_options(options, folder / "options.json")
    if figures_file.exists() and any(record["run"] == run for _, record in read_objects(figures_file)):
        print(f"{figures_file} has the figures of {run}; remove its line and {folder} to make it again")
        return
    started = time.monotonic()
    policy = options.policy
    if run != "base":
        policy = folder / "policy"
        if not policy.is_dir():
            write_problems(prompts, folder / "train.jsonl")
            train(run, options, prompts, folder)
    write_problems(held_out, folder / "held_out.jsonl")
    figures = evaluate_policy(options, policy, held_out, folder / "held_out.jsonl", folder)
    stopped = folder / STOPPED_FILE
    # What a killed process took is not known.
    minutes = None if goes_on else (time.monotonic() - started) / 60
    record = {
        "run": run,
        "seed": options.seed,
        "minutes": minutes,
        "reward_models": [*name_models(options)],  # `reward` is of the first
        "stopped": json.loads(stopped.read_text()) if stopped.exists() else None,
        **figures,
    }
    with figures_file.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record))


def require_sizes(run: str, options: argparse.Namespace) -> None:
    """Refuses a number that no run can have, before anything is written."""
    lowest = dict.fromkeys(("keep", "steps", "prompts", "samples", "eval_samples", "max_tokens", "save_steps"), 1)
    lowest |= {"stop_after": 0, "samples": 2 if run in KINDS else 1}
    for name, low in lowest.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise SystemExit(f"--{name.replace('_', '-')} {value}; give a whole number of at least {low} for {run}")


def require_same_options(options: argparse.Namespace, path: Path) -> None:
    """Keeps the options of a run beside it, and ends where it was begun with others."""
    values = {name: str(value) for name, value in vars(options).items() if name not in ("run", "output", "save_steps")}
    if not path.exists():
        path.write_text(json.dumps(values, indent=2) + "\n")
    for name, value in json.loads(path.read_text()).items():
        if value != values.get(name):
            raise SystemExit(
                f"{path.parent} was begun with {name} {value}, and now it is {values.get(name)}; "
                "give another --output, or remove the folder"
            )


def train(run: str, options: argparse.Namespace, prompts: dict[str, Task], folder: Path) -> None:
    kind = {REJECTION: "model"}.get(run, run.removeprefix(f"{REJECTION}-"))
    with Sandbox() as sandbox:
        rewards = make_rewards(kind, prompts, options, sandbox)
        if run.startswith(REJECTION):
            train_rejection(options, prompts, rewards, folder)
        else:
            if kind in ("validity", "model"):
                rewards.append(make_observer(make_tests_reward(prompts, sandbox)))
            train_grpo(options, prompts, rewards, folder)


def choose_problems(tasks: Sequence[Task], split: str, limit: int | None) -> dict[str, Task]:
    """The first problems of a split, by their task_id."""
    return {task.task_id: task for task in choose_tasks(tasks, split, limit)}


def write_problems(tasks: dict[str, Task], path: Path) -> None:
    path.write_text("".join(json.dumps(make_task_record(task)) + "\n" for task in tasks.values()))


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python examples/rl/demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    rejections = (REJECTION, *(f"{REJECTION}-{kind}" for kind in KINDS if kind != "model"))
    add("run", nargs="+", choices=("base", *KINDS, *rejections), metavar="RUN", help="one or more")
    add("--policy", required=True, help="folder of a language model with a chat template")
    add("--problems", type=Path, required=True, help="problems with tests, such as MBPP's file")
    add(
        "--rm",
        action="append",
        metavar="[NAME=]MODEL[:SCORER]",
        help="folder, hub id, or URL of a server (nano). Repeat it, and scores standardised within a prompt are added",
    )
    add("--output", type=Path, default=Path("build/rl"), help="folder of runs (%(default)s)")
    add("--train-split", default="train")
    add("--eval-split", default="validation")
    add("--train-limit", type=int, help="prompts, from the first on")
    add("--eval-limit", type=int, help="held-out problems, from the first on")
    add("--samples-file", type=Path, help="samples of the policy by `data sample`, for rejection and the alarm's start")
    add("--keep", type=int, default=1, help="samples of a prompt that rejection keeps (%(default)s)")
    add("--steps", type=int, help="of training (60; of rejection, one pass over what is kept)")
    add("--prompts", type=int, default=8, help="a step (%(default)s)")
    add("--samples", type=int, default=8, help="of a prompt (%(default)s)")
    add("--eval-samples", type=int, default=8, help="of a held-out problem (%(default)s)")
    add("--max-tokens", type=int, default=384, help="of a completion (%(default)s)")
    add("--temperature", type=float, default=0.6, help="of training and evaluation (%(default)s)")
    add("--learning-rate", type=float, default=1e-6, help="(%(default)s)")
    add("--lora", type=int, default=0, metavar="RANK", help="train adapters of this rank; 0 trains all weights")
    add("--stop-after", type=int, default=3, help="alarms in a row that end GRPO; 0 for never (%(default)s)")
    add("--save-steps", type=int, default=10, help="between checkpoints (%(default)s)")
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
