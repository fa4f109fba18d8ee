"""The reward for OpenRLHF: the file that `--reward.remote_url` names defines it. OpenRLHF is not imported.

    from codescaler.integrations.openrlhf import make_reward_func

    reward_func = make_reward_func("http://127.0.0.1:8000", problem_in_label=True)

Without a file, `--reward.remote_url "http://127.0.0.1:8000/get_reward?shape=true&problem=label"` has the server do so.
"""

from collections.abc import Callable, Sequence
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.integrations.reward_function import RewardFunction
from codescaler.text.queries import cut_prompt

RewardFunc = Callable[[Sequence[str], Sequence[str], Sequence[Any]], dict[str, Any]]


def make_reward_func(reward_model: str, *, problem_in_label: bool = False, **settings: Any) -> RewardFunc:
    """Returns `reward_func(queries, prompts, labels)`, which OpenRLHF calls on many threads, one sample a call.

    The prompt is what the policy reads, in the policy's template. With `problem_in_label`, the label is the problem:
    `--data.label_key` names its column. Without, the prompt must be the problem alone: no `--data.apply_chat_template`.

    Args:
        reward_model: the URL of a server, a folder or a hub id.
        problem_in_label: whether labels are the problems.
        settings: the other arguments of `RewardFunction.open`.

    Calls raise InvalidInput where a label is to be the problem and is empty; otherwise as `RewardFunction`.
    """
    reward = RewardFunction.open(reward_model, **settings)

    def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
        if problem_in_label and not all(labels):
            raise InvalidInput(f"a label is {next(x for x in labels if not x)!r}; name its column by --data.label_key")
        completions = [cut_prompt(query, prompt) for query, prompt in zip(queries, prompts, strict=True)]
        rewards = reward(labels if problem_in_label else prompts, completions)
        valid_share = sum(value > 0.0 for value in rewards) / max(1, len(rewards))
        return {"rewards": rewards, "scores": rewards, "extra_logs": {"codescaler_valid": valid_share}}

    return reward_func
