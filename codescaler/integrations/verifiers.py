"""The reward for verifiers: `codescaler = vf.reward(make_reward("http://127.0.0.1:8000"))` in the class of a task.

verifiers is not imported.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from codescaler.integrations.reward_function import AsyncRewardFunction, Turn

Reward = Callable[[Any, Any, Any], Awaitable[float]]


def make_reward(reward_model: str, *, problem_field: str = "prompt", **settings: Any) -> Reward:
    """Returns a method of tasks: the reward of a trace's last reply to the problem of its task.

    `problem_field` names a field of the task's data that holds the problem, where the prompt holds more. `settings` are
    the other arguments of `AsyncRewardFunction.open`. The reward model is opened now.
    """
    reward = AsyncRewardFunction.open(reward_model, **settings)

    async def reward_trace(self: Any, task: Any, trace: Any) -> float:
        (value,) = await reward([_read_turn(getattr(task, problem_field))], [trace.last_reply])
        return value

    reward_trace.__name__ = reward.__name__  # verifiers logs rewards under it
    return reward_trace


def _read_turn(problem: Any) -> Turn:
    """Returns a text as it is, and verifiers' messages as mappings."""
    if not isinstance(problem, list):
        return problem  # type: ignore[no-any-return]
    return [message if isinstance(message, dict) else message.model_dump(exclude_none=True) for message in problem]
