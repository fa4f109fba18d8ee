"""The reward for ms-swift: the file that `--external_plugins` names registers it for `--reward_funcs codescaler`.

    from codescaler.integrations.ms_swift import register_reward

    register_reward("http://127.0.0.1:8000")

ms-swift is imported by `register_reward`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from codescaler.integrations.reward_function import AsyncRewardFunction, RewardFunction, Turn


class CodescalerORM:
    """An outcome reward model of ms-swift. `settings` are the arguments of `RewardFunction.open`."""

    def __init__(self, args: Any = None, **settings: Any) -> None:
        self.args = args
        self._reward = RewardFunction.open(**settings)

    def __call__(self, completions: Sequence[str], messages: Sequence[Turn], **columns: Any) -> list[float]:
        """Returns a reward for each completion, which is also the last of its messages."""
        return self._reward([turns[:-1] for turns in messages], completions, **columns)


class AsyncCodescalerORM:
    """`CodescalerORM` that ms-swift awaits beside other rewards."""

    def __init__(self, args: Any = None, **settings: Any) -> None:
        self.args = args
        self._reward = AsyncRewardFunction.open(**settings)

    async def __call__(self, completions: Sequence[str], messages: Sequence[Turn], **columns: Any) -> list[float]:
        """Returns what `CodescalerORM` does."""
        return await self._reward([turns[:-1] for turns in messages], completions, **columns)


def register_reward(reward_model: str, name: str = "codescaler", *, is_async: bool = False, **settings: Any) -> None:
    """Makes the reward known to ms-swift by a name. The reward model is opened when the trainer makes the reward."""
    from swift.rewards import orms

    kind = AsyncCodescalerORM if is_async else CodescalerORM
    orms[name] = partial(kind, reward_model=reward_model, **settings)
