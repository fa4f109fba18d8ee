"""TRL's GRPOTrainer in the project's own environment, with a reward function that asks a server."""

import datasets
import pytest
import transformers
import trl
from tokenizers import Tokenizer, models

from codescaler.engine import Engine
from codescaler.integrations.reward_function import AsyncRewardFunction, RewardFunction


@pytest.fixture
def completions(programs):
    """What the policy may say: each program in a fenced block, and a text without one."""
    return [*(f"Here:\n```python\n{program}\n```" for program in programs), "There is no program."]


@pytest.fixture
def policy(problem, completions):
    """A model and tokenizer whose words are whole completions."""
    texts = ["<pad>", "<eos>", problem, *completions]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}, unk_token=problem)),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    config = transformers.LlamaConfig(
        vocab_size=len(texts), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    return transformers.LlamaForCausalLM(config), tokenizer


@pytest.mark.parametrize("kind", [RewardFunction, AsyncRewardFunction])
def test_rewards_have_the_bits_of_the_engine(kind, served, policy, problem, completions, tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    model, tokenizer = policy
    rewards = kind.open(served.url, model=served.name)
    calls = []
    if kind is AsyncRewardFunction:

        async def watch(prompts, completions, **columns):
            calls.append((prompts, completions, await rewards(prompts, completions, **columns)))
            return calls[-1][2]
    else:

        def watch(prompts, completions, **columns):
            calls.append((prompts, completions, rewards(prompts, completions, **columns)))
            return calls[-1][2]

    trainer = trl.GRPOTrainer(
        model,
        reward_funcs=watch,
        train_dataset=datasets.Dataset.from_dict({"prompt": [problem] * 16}),
        processing_class=tokenizer,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            max_steps=2,
            beta=0.0,  # no reference model
            per_device_train_batch_size=16,
            num_generations=16,
            max_completion_length=1,
            report_to=[],
            use_cpu=True,
            seed=0,
        ),
    )
    trainer.train()
    in_process = RewardFunction(Engine.from_pretrained(served.folder, dtype="float32", num_threads=1))
    assert len(calls) == 2
    assert any(reward > 0 for _, _, found in calls for reward in found)
    for prompts, said, found in calls:
        assert found == in_process(prompts, said)
