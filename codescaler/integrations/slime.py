"""The reward for slime. slime is not imported.

    --custom-rm-path codescaler.integrations.slime.reward
    --rm-url http://127.0.0.1:8000

With `--group-rm` all samples of a prompt come in one call. `--rm-url` may also be the folder or hub id of a model.
Without a custom path, `--rm-type remote_rm --rm-url http://127.0.0.1:8000/reward?shape=true` has the server do so.
"""

from functools import cache
from typing import Any

from codescaler.errors import InvalidInput
from codescaler.integrations.reward_function import AsyncRewardFunction, Turn

PROBLEM_KEY = "problem"  # of a sample's metadata


async def reward(args: Any, samples: Any, **_: Any) -> float | list[float]:
    """Returns the reward of a sample, or those of a list of samples.

    The problem is `metadata["problem"]` of a sample, where it is. Else it is the prompt, which should then be messages:
    with `--apply-chat-template` it is a text in the policy's template.

    Raises:
        InvalidInput: `--rm-url` is missing. Otherwise as `AsyncRewardFunction`.
    """
    if not getattr(args, "rm_url", None):
        raise InvalidInput("there is no --rm-url; give the URL of a server, or a model")
    given = samples if isinstance(samples, list) else [samples]
    rewards = await _open_reward(args.rm_url)([get_problem(each) for each in given], [each.response for each in given])
    return rewards if isinstance(samples, list) else rewards[0]


def get_problem(sample: Any) -> Turn:
    """Returns the problem of a sample, a text or messages."""
    metadata = sample.metadata if isinstance(sample.metadata, dict) else {}
    problem: Turn | None = metadata.get(PROBLEM_KEY)
    return sample.prompt if problem is None else problem


@cache
def _open_reward(reward_model: str) -> AsyncRewardFunction:
    return AsyncRewardFunction.open(reward_model)
