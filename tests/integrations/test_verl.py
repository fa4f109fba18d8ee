"""verl 0.9.1 as it calls: its manager, its custom function, and the payloads that its reward workers post."""

import asyncio
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from codescaler.engine import Engine
from codescaler.errors import InvalidInput
from codescaler.integrations.verl import CodescalerRewardManager, compute_score

from ..serve.conftest import send, serve
from .conftest import COMPLETIONS, PROBLEM


class Data(list):
    """What verl's DataProto is to a manager: slices are of its kind, and an index gives a sample."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return Data(item) if isinstance(index, slice) else item


@pytest.fixture(scope="module")
def tokenizer(folder):
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|im_end|>")


def make_data(tokenizer, completion, **fields):
    """One sample as verl's agent loop packs it: the prompt padded left and the response right."""
    response = tokenizer(completion + "<|im_end|>")["input_ids"]
    padded = torch.tensor(response + [0] * 3)
    mask = torch.tensor([0, 0] + [1] * 5 + [1] * len(response) + [0] * 3)
    return Data([SimpleNamespace(batch={"responses": padded, "attention_mask": mask}, non_tensor_batch=fields)])


def make_manager(tokenizer, **settings):
    return CodescalerRewardManager(
        config=SimpleNamespace(reward={"reward_kwargs": settings}), tokenizer=tokenizer, compute_score=None
    )


def test_the_manager_reads_messages_and_samples_come_one_by_one(reward_model, tokenizer, rewards):
    manager = make_manager(tokenizer, reward_model=reward_model)
    prompt = np.array([{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}])

    async def run():
        samples = [make_data(tokenizer, completion, raw_prompt=prompt) for completion in COMPLETIONS]
        return await asyncio.gather(*map(manager.run_single, samples))

    results = asyncio.run(run())
    assert [result["reward_score"] for result in results] == rewards
    valid = [result["reward_extra_info"]["is_valid"] for result in results]
    assert valid == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_the_problem_may_stand_in_extra_info(reward_model, tokenizer, rewards):
    manager = make_manager(tokenizer, reward_model=reward_model, problem_key="question")
    prompt = [{"role": "user", "content": f"Think first. {PROBLEM}"}]
    data = make_data(tokenizer, COMPLETIONS[0], raw_prompt=prompt, extra_info={"question": PROBLEM})
    assert asyncio.run(manager.run_single(data))["reward_score"] == rewards[0]
    with pytest.raises(InvalidInput, match="extra_info of a sample holds no 'question', but index"):
        asyncio.run(manager.run_single(make_data(tokenizer, "", raw_prompt=prompt, extra_info={"index": 1})))


def test_the_custom_function_needs_no_prompt(reward_model, rewards):
    async def run():
        calls = [
            compute_score("code", completion, None, {"question": PROBLEM}, reward_model=reward_model)
            for completion in COMPLETIONS
        ]
        return await asyncio.gather(*calls)

    results = asyncio.run(run())
    assert [result["score"] for result in results] == rewards


def test_settings_are_checked_when_the_manager_is_made(tokenizer, server):
    with pytest.raises(InvalidInput, match=r"no reward\.reward_kwargs\.reward_model"):
        make_manager(tokenizer)
    with pytest.raises(InvalidInput, match="'cobol' is not known"):
        make_manager(tokenizer, reward_model=server.url, language="cobol")
    with pytest.raises(InvalidInput, match=r"set data\.return_raw_chat=True"):
        asyncio.run(make_manager(tokenizer, reward_model=server.url).run_single(make_data(tokenizer, "")))


def list_payloads(model, text):
    """What `compute_score_disrm` posts for rollout.name=vllm and sglang, and where the score is read."""
    return [
        ("/classify", {"model": model, "input": text, "use_activation": False}, lambda o: o["data"][-1]["probs"][-1]),
        ("/v1/embeddings", {"model": model, "input": text}, lambda o: o["data"][-1]["embedding"][-1]),
    ]


def test_the_payloads_of_reward_workers_score_to_the_bit(server, engine, folder):
    messages = [{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": COMPLETIONS[0]}]
    expected = engine.score([messages])[0]
    for path, body, read in list_payloads(str(folder), engine.encoder.chat.render(messages)):
        status, _, answer = send(server.url + path, body)
        assert (status, read(answer)) == (200, expected)


def test_a_bos_that_verl_strips_is_put_back_once(folder, tmp_path):
    model = shutil.copytree(folder, tmp_path / "rm")
    (model / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|im_start|>"}))
    engine = Engine.from_pretrained(model)
    messages = [{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": COMPLETIONS[0]}]
    text = engine.encoder.chat.render(messages)
    bos = engine.encoder.chat.special_tokens["bos_token"]
    assert text.startswith(bos)
    expected = engine.score([messages])[0]
    with serve((engine, ("rm",))) as server:
        for given, num_restored in ((text, 0), (text.removeprefix(bos), 1)):
            for path, body, read in list_payloads("rm", given):
                assert read(send(server.url + path, body)[2]) == expected
            counted = f"codescaler_bos_restored_rows_total {2.0 * num_restored}"
            assert counted in send(server.url + "/metrics")[2]
