"""verl's own reward workers: the payloads for vLLM and SGLang, our manager, our function, and its retries."""

import asyncio
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import verl
from hydra import compose, initialize_config_dir
from tensordict import TensorDict
from trainers import Replacement, score_during, shape
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.utils import hf_tokenizer

ROOT = Path(__file__).parents[3]
NANO = str(ROOT / "codescaler/nano")  # the policy: its tokenizer is all that a reward worker reads
SYSTEM = {"role": "system", "content": "Answer with one block."}
NUM_SAMPLES = 60


def make_worker(url, *overrides):
    """A worker with verl's default configuration, without a Ray cluster."""
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer/config"), version_base=None):
        config = compose("ppo_trainer", overrides=[f"actor_rollout_ref.model.path={NANO}", *overrides])
    return RewardLoopWorker(config, url and url.removeprefix("http://"))


def make_data(conversations):
    """A batch as a rollout leaves it: prompts are left out, and responses end with the policy's end of turn."""
    tokenizer = hf_tokenizer(NANO)
    ids = [torch.tensor(tokenizer(text + tokenizer.eos_token)["input_ids"]) for _, text in conversations]
    responses = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = torch.stack([torch.arange(responses.shape[1]) < len(row) for row in ids]).long()
    prompts = np.empty(len(ids), dtype=object)
    prompts[:] = [list(prompt) for prompt, _ in conversations]
    extra = np.array([{"question": prompt[-1]["content"]} for prompt, _ in conversations], dtype=object)
    return DataProto(
        batch=TensorDict(
            {"prompts": torch.zeros(len(ids), 2), "responses": responses, "attention_mask": mask}, batch_size=len(ids)
        ),
        non_tensor_batch={
            "raw_prompt": prompts,
            "extra_info": extra,
            "data_source": np.array(["code"] * len(ids)),
            "reward_model": np.array([{"ground_truth": ""}] * len(ids), dtype=object),
        },
    )


def run(worker, data):
    return worker.loop.run_until_complete(worker.compute_score_batch(data))


@pytest.fixture
def conversations(problem, programs):
    """Pairs of prompt and response."""
    return [([{"role": "user", "content": problem}], f"Here:\n```python\n{program}\n```") for program in programs]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_reward_model_behind_verl_s_router(served, conversations, engine):
    """The text is in the reward model's template, and has lost its BOS where the template begins with one."""
    folder = NANO if served.folder == "nano" else served.folder
    worker = make_worker(
        served.url,
        "reward.reward_model.enable=True",
        f"reward.reward_model.rollout.name={engine}",
        f"reward.reward_model.model_path={folder}",
    )
    if served.folder == "nano":  # verl sends the path that it reads, and this server knows nano by its name
        worker.config.reward.reward_model.model_path = "nano"
    scores = [result["reward_score"] for result in run(worker, make_data(conversations))]
    messages = [[*prompt, {"role": "assistant", "content": text}] for prompt, text in conversations]
    assert scores == served.score(messages)


def list_rewards(served, problem, programs):
    return [shape(score) for score in served.score([(problem, program) for program in programs])]


def test_our_manager(package, served, problem, programs, conversations):
    worker = make_worker(
        None,
        "reward.reward_manager.source=importlib",
        "reward.reward_manager.name=CodescalerRewardManager",
        "reward.reward_manager.module.path=pkg://codescaler.integrations.verl",
        f"+reward.reward_kwargs.reward_model={served.url}",
    )
    data = make_data([([SYSTEM, *prompt], text) for prompt, text in conversations] + [(conversations[0][0], "I pass.")])
    results = run(worker, data)
    rewards = [*list_rewards(served, problem, programs), 0.0]
    assert [result["reward_score"] for result in results] == rewards
    assert [result["reward_extra_info"]["is_valid"] for result in results] == [1.0] * len(programs) + [0.0]
    placed = worker.reward_manager.assemble_rm_scores(data, rewards)
    assert placed.sum(dim=1).tolist() == torch.tensor(rewards).tolist()


def test_our_function(package, served, problem, programs, conversations):
    worker = make_worker(
        None,
        "reward.custom_reward_function.path=pkg://codescaler.integrations.verl",
        f"+reward.custom_reward_function.reward_kwargs.reward_model={served.url}",
    )
    results = run(worker, make_data(conversations))
    assert [result["reward_score"] for result in results] == list_rewards(served, problem, programs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_is_replaced_loses_no_reward(package, tiny, project, problem, number):
    programs = [f"def add(a, b):\n    return a + b + {index}" for index in range(NUM_SAMPLES)]
    conversations = [([{"role": "user", "content": problem}], f"```python\n{program}\n```") for program in programs]
    data = make_data(conversations)
    with Replacement(tiny, number) as replacement:
        theirs = make_worker(
            replacement.url,
            "reward.reward_model.enable=True",
            "reward.reward_model.rollout.name=vllm",
            f"reward.reward_model.model_path={tiny}",
        )
        ours = make_worker(
            None,
            "reward.custom_reward_function.path=pkg://codescaler.integrations.verl",
            f"+reward.custom_reward_function.reward_kwargs.reward_model={replacement.url}",
        )

        async def score(index):
            sample = data[index : index + 1]
            results = await asyncio.gather(theirs.compute_score(sample), ours.compute_score(sample))
            return [result["reward_score"] for result in results]

        scores = theirs.loop.run_until_complete(score_during(replacement, score, NUM_SAMPLES))
    assert replacement.code == (0 if number == signal.SIGTERM else -number)
    raw = project.ask(
        "score", tiny, [[*prompt, {"role": "assistant", "content": text}] for prompt, text in conversations]
    )
    of_programs = project.ask("score", tiny, [(problem, program) for program in programs])
    assert scores == [[text, shape(program)] for text, program in zip(raw, of_programs, strict=True)]
