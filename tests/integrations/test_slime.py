"""slime as it calls: a custom reward with one sample or a group, and the payload of its remote reward model."""

import asyncio
from types import SimpleNamespace

import pytest

from codescaler.errors import InvalidInput
from codescaler.integrations.slime import reward as compute_reward

from ..serve.conftest import send
from .conftest import COMPLETIONS, PROBLEM

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}]


def make_sample(response, prompt=MESSAGES, metadata=None):
    return SimpleNamespace(prompt=prompt, response=response, label=None, metadata=metadata)


def test_a_sample_has_a_number_and_a_group_has_a_list(reward_model, rewards):
    args = SimpleNamespace(rm_url=reward_model)
    samples = [make_sample(completion) for completion in COMPLETIONS]

    async def run():
        return await asyncio.gather(*(compute_reward(args, sample) for sample in samples))

    assert asyncio.run(run()) == rewards
    assert asyncio.run(compute_reward(args, samples, evaluation=False)) == rewards  # --group-rm


def test_metadata_may_hold_the_problem(reward_model, rewards):
    args = SimpleNamespace(rm_url=reward_model)
    sample = make_sample(COMPLETIONS[1], prompt=f"<|user|>{PROBLEM}<|assistant|>", metadata={"problem": PROBLEM})
    assert asyncio.run(compute_reward(args, sample)) == rewards[1]


def test_an_empty_problem_is_refused(reward_model):
    args = SimpleNamespace(rm_url=reward_model)
    with pytest.raises(InvalidInput, match=r"prompts\[0\] is .* needs the problem"):
        asyncio.run(compute_reward(args, make_sample(COMPLETIONS[0], metadata={"problem": ""})))


def test_a_missing_url_is_named():
    with pytest.raises(InvalidInput, match="there is no --rm-url"):
        asyncio.run(compute_reward(SimpleNamespace(rm_url=None), make_sample("")))


@pytest.mark.parametrize("prompt", [PROBLEM, MESSAGES[1:]])
def test_the_payload_of_its_remote_reward_model_gives_a_bare_number(server, engine, prompt):
    body = {"prompt": prompt, "response": COMPLETIONS[0], "label": None}
    (score,) = engine.score([(PROBLEM, COMPLETIONS[0])])
    assert send(server.url + "/reward", body)[::2] == (200, score)


def test_the_url_of_its_remote_reward_model_may_ask_for_the_shaped_reward(server, rewards):
    for completion, reward in zip(COMPLETIONS, rewards, strict=True):
        body = {"prompt": MESSAGES, "response": completion, "label": PROBLEM}
        assert send(server.url + "/reward?shape=true", body)[::2] == (200, reward)
        assert send(server.url + "/reward?shape=true&problem=label", body | {"prompt": ""})[::2] == (200, reward)
