"""The reward for verl: a reward manager, and a `custom_reward_function`. verl is not imported until it scores.

    reward.reward_manager.source=importlib
    reward.reward_manager.name=CodescalerRewardManager
    reward.reward_manager.module.path=pkg://codescaler.integrations.verl
    +reward.reward_kwargs.reward_model=http://127.0.0.1:8000

The manager reads the messages of the prompt. Where another manager is wanted, the function is its score:

    reward.custom_reward_function.path=pkg://codescaler.integrations.verl
    +reward.custom_reward_function.reward_kwargs.reward_model=http://127.0.0.1:8000

verl scores one sample a call, many at a time, in `reward.num_workers` processes. Each loads a model of its own, unless
`reward_model` is the URL of a server.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.integrations.reward_function import AsyncRewardFunction


class CodescalerRewardManager:
    """What verl makes in each reward worker. Settings are the keys of `reward.reward_kwargs`.

    They are `reward_model`, and the other arguments of `AsyncRewardFunction.open` but `problem_column`. Give
    `problem_key` if the prompt holds more than the problem, and `extra_info` of a sample holds the problem.
    """

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any = None,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        settings = dict(config.reward.get("reward_kwargs") or {})
        if "reward_model" not in settings:
            raise InvalidInput("there is no reward.reward_kwargs.reward_model; give the URL of a server, or a model")
        self._problem_key = settings.pop("problem_key", None)
        self._reward = AsyncRewardFunction.open(**settings)
        self._tokenizer = tokenizer

    async def run_single(self, data: Any) -> dict[str, Any]:
        """Returns the reward of the last sequence of a sample, as verl's own managers do.

        Raises:
            InvalidInput: the sample holds no problem. Otherwise as `AsyncRewardFunction`.
        """
        item = data[-1:][0]
        response = item.batch["responses"]
        length = int(item.batch["attention_mask"][-response.shape[-1] :].sum())
        completion = await asyncio.to_thread(self._tokenizer.decode, response[:length], skip_special_tokens=True)
        if self._problem_key is not None:
            problem = get_problem(item.non_tensor_batch.get("extra_info"), self._problem_key)
        elif "raw_prompt" in item.non_tensor_batch:
            problem = [dict(message) for message in item.non_tensor_batch["raw_prompt"]]
        else:
            raise InvalidInput("the sample has no raw_prompt; set data.return_raw_chat=True")
        (reward,) = await self._reward([problem], [completion])
        return {"reward_score": reward, "reward_extra_info": describe_reward(reward)}

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: list[float]) -> Any:
        """Returns verl's tensor of rewards: each stands at the last token of its response."""
        from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

        return RewardManagerBase.assemble_rm_scores(data, scores)


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward_model: str,
    problem_key: str = "question",
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **settings: Any,
) -> dict[str, Any]:
    """Returns the reward of one response. `extra_info[problem_key]` is the problem: verl hands over no prompt.

    `settings` are the other arguments of `AsyncRewardFunction.open`.

    Raises:
        InvalidInput: the sample holds no problem. Otherwise as `AsyncRewardFunction`.
    """
    problem = get_problem(extra_info, problem_key)
    (reward,) = await _open_reward(reward_model, json.dumps(settings, sort_keys=True))([problem], [solution_str])
    return describe_reward(reward)


def get_problem(extra_info: Mapping[str, Any] | None, key: str) -> str | Sequence[Mapping[str, Any]]:
    """Returns the problem that `extra_info` of a sample holds: a text, or messages.

    Raises:
        InvalidInput: there is none.
    """
    if not extra_info or extra_info.get(key) is None:
        names = ", ".join(sorted(extra_info or {})) or "nothing"
        raise InvalidInput(f"extra_info of a sample holds no {key!r}, but {names}; name the problem by problem_key")
    return extra_info[key]  # type: ignore[no-any-return]


def describe_reward(reward: float) -> dict[str, Any]:
    """Returns what verl logs: a valid program has a reward above 0, and another has 0."""
    return {"score": reward, "is_valid": float(reward > 0.0)}


@cache
def _open_reward(reward_model: str, settings: str) -> AsyncRewardFunction:
    return AsyncRewardFunction.open(reward_model, **json.loads(settings))
