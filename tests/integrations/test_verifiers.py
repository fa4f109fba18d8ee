"""verifiers 0.4.0 as it calls: a method of a task, with the task's data and the trace by name."""

import asyncio
from types import SimpleNamespace

import pytest

from codescaler.errors import InvalidInput
from codescaler.integrations.verifiers import make_reward

from .conftest import COMPLETIONS, PROBLEM


class Message(SimpleNamespace):
    """What a message of verifiers is to us: a pydantic model."""

    def model_dump(self, exclude_none):
        return {name: value for name, value in vars(self).items() if value is not None or not exclude_none}


def call(reward, completion, **fields):
    class CodeTask:
        codescaler = reward

    data, trace = SimpleNamespace(**fields), SimpleNamespace(last_reply=completion)
    return asyncio.run(CodeTask().codescaler(task=data, trace=trace))


@pytest.mark.parametrize(
    "prompt",
    [
        PROBLEM,
        [{"role": "user", "content": PROBLEM}],
        [Message(role="system", content="Be brief.", name=None), Message(role="user", content=PROBLEM, name=None)],
    ],
)
def test_a_task_has_the_reward_of_its_last_reply(reward_model, rewards, prompt):
    reward = make_reward(reward_model)
    assert reward.__name__ == "codescaler_reward"
    assert [call(reward, completion, prompt=prompt) for completion in COMPLETIONS] == rewards


def test_the_problem_may_stand_in_another_field(reward_model, rewards):
    reward = make_reward(reward_model, problem_field="question")
    assert call(reward, COMPLETIONS[0], prompt="Think.", question=PROBLEM) == rewards[0]


def test_a_task_without_a_prompt_is_refused(reward_model):
    with pytest.raises(InvalidInput, match=r"prompts\[0\] is None"):
        call(make_reward(reward_model), COMPLETIONS[0], prompt=None)
