"""The rewards of a run, by its name: a reward model, tests in the sandbox, both, or whether there is a program."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from codescaler import RewardFunction, extract
from codescaler.monitor import RewardMonitor
from codescaler.sandbox import Sandbox
from codescaler.types import Task

Reward = Callable[..., list[float]]
KINDS = ("validity", "model", "tests", "mixed")


def make_rewards(kind: str, tasks: Mapping[str, Task], reward_model: str, sandbox: Sandbox) -> list[Reward]:
    """Returns what `GRPOTrainer` takes as `reward_funcs`, whose sum is the reward. A reward model comes first."""
    if kind == "validity":
        return [reward_validity]
    verified = make_tests_reward(tasks, sandbox)
    if kind == "tests":
        return [verified]
    scored = RewardFunction.open(reward_model)
    return [scored] if kind == "model" else [scored, verified]


def watch_rewards(rewards: list[Reward], log: str) -> RewardMonitor | None:
    """Puts the alarm around a reward model, in place, and returns it."""
    if not isinstance(rewards[0], RewardFunction):
        return None
    monitor = rewards[0] = RewardMonitor(rewards[0], log=log)
    return monitor


def reward_validity(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """1 for exactly one fenced block that parses, else 0."""
    return [float(extract.extract_training_code(read_text(completion)) is not None) for completion in completions]


def make_tests_reward(tasks: Mapping[str, Task], sandbox: Sandbox) -> Reward:
    """Returns the reward by tests of the task that the column `task_id` names: 1 for a program that passes all."""

    def reward_tests(
        prompts: Sequence[Any], completions: Sequence[Any], *, task_id: Sequence[str], **_: Any
    ) -> list[float]:
        codes = [extract.extract_training_code(read_text(completion)) for completion in completions]
        jobs = [(code, tasks[name].tests) for code, name in zip(codes, task_id, strict=True) if code is not None]
        verdicts = iter(sandbox.run_many(jobs))
        return [0.0 if code is None else float(bool(next(verdicts).passed)) for code in codes]

    return reward_tests


def read_text(completion: Any) -> str:
    """The text of a completion: as it stands, or that of its message."""
    return completion if isinstance(completion, str) else completion[0]["content"]
