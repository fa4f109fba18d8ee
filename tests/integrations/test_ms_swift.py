"""ms-swift 4.6.0 as it calls: a class from its registry, with completions and whole conversations, awaited or not."""

import asyncio
import sys
from types import ModuleType, SimpleNamespace

import pytest

from codescaler.integrations.ms_swift import register_reward

from .conftest import COMPLETIONS, PROBLEM

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}]


@pytest.fixture
def orms(monkeypatch):
    """The registry, where `from swift.rewards import orms` finds it."""
    rewards = ModuleType("swift.rewards")
    rewards.orms = {}
    monkeypatch.setitem(sys.modules, "swift", ModuleType("swift"))
    monkeypatch.setitem(sys.modules, "swift.rewards", rewards)
    return rewards.orms


@pytest.mark.parametrize("is_async", [False, True])
def test_a_registered_reward_reads_the_conversation_before_the_completion(orms, reward_model, rewards, is_async):
    register_reward(reward_model, is_async=is_async)
    reward = orms["codescaler"](args=SimpleNamespace())
    conversations = [[*MESSAGES, {"role": "assistant", "content": completion}] for completion in COMPLETIONS]
    result = reward(COMPLETIONS, trainer_state=None, messages=conversations, solution=[""] * 5)
    assert (asyncio.run(result) if is_async else result) == rewards
    assert asyncio.iscoroutinefunction(type(reward).__call__) == is_async  # how ms-swift tells them apart
