"""The rewards of a run, by its name: a reward model, tests in the sandbox, both, or whether there is a program."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codescaler import RewardFunction, extract
from codescaler.commands.options import ModelName, parse_models
from codescaler.data.sample.endpoint import Endpoint
from codescaler.data.sample.local_model import compute_model_digest
from codescaler.errors import InvalidInput
from codescaler.evaluate.combination import CombinedScorer
from codescaler.integrations.scorers import is_url, open_scorer
from codescaler.io.records import read_objects
from codescaler.monitor import RewardMonitor
from codescaler.sandbox import Sandbox
from codescaler.types import ScorerName, Task

Reward = Callable[..., list[float | None]]
KINDS = ("validity", "model", "tests", "mixed")


def make_rewards(kind: str, tasks: Mapping[str, Task], options: Any, sandbox: Sandbox) -> list[Reward | RewardFunction]:
    """Returns what `GRPOTrainer` takes as `reward_funcs`, whose sum is the reward. A reward model comes first."""
    if kind == "validity":
        return [reward_validity]
    verified = make_tests_reward(tasks, sandbox)
    if kind == "tests":
        return [verified]
    scored = open_combined_reward(options)
    return [scored] if kind == "model" else [scored, verified]


def name_models(options: Any) -> dict[str, ModelName]:
    """The reward models of the options, by name.

    Raises: InvalidInput if a name is taken, a server is given a scorer, or the first is a sum over tokens.
    """
    models = parse_models(options.rm or ["nano"])
    for place, (model, scorer) in enumerate(models.values()):
        if scorer != "reward" and is_url(model):
            raise InvalidInput(f"{model}:{scorer} is a server, which has a scorer of its own; leave :{scorer} out")
        if place == 0 and scorer in ("likelihood", "reviewer", "coder_reviewer"):
            raise InvalidInput(
                f"{model}:{scorer} is a sum over tokens, whose reward is 0; "
                "give :likelihood_mean, or another model first"
            )
    return models


def open_reward(options: Any) -> RewardFunction:
    """The reward of the first reward model of the options: what the alarm watches, and what figures are of."""
    model, scorer = next(iter(name_models(options).values()))
    return RewardFunction(_open_model(model, scorer))


def open_combined_reward(options: Any) -> RewardFunction:
    """The reward that trains: of several models, their scores are standardised within a prompt, and added."""
    engines = {name: _open_model(*model) for name, model in name_models(options).items()}
    (first, *others) = engines.values()
    return RewardFunction(CombinedScorer(engines, dict.fromkeys(engines, 1.0)) if others else first)


def _open_model(model: str, scorer: ScorerName) -> Any:
    return open_scorer(model, **({} if is_url(model) else {"scorer": scorer}))


def watch_reward(
    reward: Reward | RewardFunction, tasks: Mapping[str, Task], options: Any, log: Path
) -> RewardMonitor | None:
    """Returns the alarm around a reward model, which gives its rewards; None for another reward.

    Of several reward models it watches the first: rewrites cannot be standardised beside what they are made of. Its
    start is samples of the policy from before the run if there are some, of the prompts in an order of their own.

    Raises: InvalidInput if they are too few, or were not drawn as the run draws.
    """
    if not isinstance(reward, RewardFunction):
        return None
    models = name_models(options)
    watched = reward if len(models) == 1 else open_reward(options)
    second = None if any(model == "nano" for model, _ in models.values()) else "nano"
    monitor = RewardMonitor(watched, second=second, log=log, stop_after=options.stop_after or None)
    if options.samples_file:
        groups = read_samples(options.samples_file, tasks)
        random.Random(options.seed).shuffle(groups)
        policy = compute_model_digest(Path(options.policy))
        for group in groups:
            require_drawn_alike(group, options, policy)
        samples = [(group["prompt"], made["completion"]) for group in groups for made in group["candidates"]]
        monitor.observe_start([prompt for prompt, _ in samples], [completion for _, completion in samples])
    return monitor


def read_samples(file: Path, tasks: Mapping[str, Task]) -> list[dict[str, Any]]:
    """The groups of these problems in a file of `codescaler data sample`.

    Raises: InvalidInput if a group has no completions, or none is of these problems.
    """
    groups = [group for _, group in read_objects(file) if str(group.get("task_id")) in tasks]
    for group in groups:
        group["task_id"] = str(group["task_id"])
        if not all(isinstance(made.get("completion"), str) for made in group.get("candidates", [{}])):
            raise InvalidInput(f"{file}, {group['task_id']}: a candidate has no completion; give samples as drawn")
    if not groups:
        raise InvalidInput(f"{file} has no samples of any of {len(tasks)} prompts; sample those of --train-split")
    return groups


def require_drawn_alike(group: Mapping[str, Any], options: Any, policy: str) -> None:
    """Refuses samples by which an honest run would be unlike its start. `policy` is the digest of the policy.

    Raises: InvalidInput.
    """
    drawn = {"n": len(group["candidates"]), **group.get("generator", {})}
    asked = {"n": options.samples, "top_p": 1.0}
    # A server says no more of a model than its name.
    known = drawn.get("answered_by") not in (None, Endpoint.identity)
    asked |= {"answered_by": policy} if known else {"model": Path(options.policy).resolve().name}
    asked |= {name: getattr(options, name) for name in ("temperature", "max_tokens")}
    for name, value in asked.items():
        if drawn.get(name) != value:
            raise InvalidInput(
                f"{options.samples_file}, {group['task_id']}: drawn with {name} {drawn.get(name)}, and the run draws "
                f"with {value}; draw them alike by `codescaler data sample`"
            )


def reward_validity(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """1 for exactly one fenced block that parses, else 0."""
    return [float(extract.extract_training_code(read_text(completion)) is not None) for completion in completions]


def make_tests_reward(tasks: Mapping[str, Task], sandbox: Sandbox) -> Reward:
    """Returns the reward by tests of the task that the column `task_id` names: 1 for a program that passes all.

    A program that the sandbox could not judge has no reward. The share of the others that pass is logged.
    """

    def reward_tests(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        task_id: Sequence[str],
        log_metric: Callable[[str, float], None] = lambda name, value: None,
        **_: Any,
    ) -> list[float | None]:
        codes = [extract.extract_training_code(read_text(completion)) for completion in completions]
        jobs = [(code, tasks[name].tests) for code, name in zip(codes, task_id, strict=True) if code is not None]
        verdicts = iter(sandbox.run_many(jobs))
        passed = [False if code is None else next(verdicts).passed for code in codes]
        if judged := [verdict for verdict in passed if verdict is not None]:
            log_metric("passed_share", sum(judged) / len(judged))
        return [None if verdict is None else float(verdict) for verdict in passed]

    return reward_tests


def make_observer(reward: Reward) -> Reward:
    """Returns a reward that logs what another one does, and gives no sample a reward."""

    def observe(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        reward(prompts, completions, **columns)
        return [None] * len(completions)

    return observe


def read_text(completion: Any) -> str:
    """The text of a completion: as it stands, or that of its message."""
    return completion if isinstance(completion, str) else completion[0]["content"]
