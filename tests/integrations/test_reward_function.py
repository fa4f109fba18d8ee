"""The reward of the paper as TRL calls it, alone and inside its trainer."""

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import codescaler.integrations
from codescaler.engine import Engine
from codescaler.errors import InvalidInput, WeightsError
from codescaler.integrations.reward_function import AsyncRewardFunction, RewardFunction
from codescaler.testing import edit_tensors
from codescaler.text.shaping import shaped_reward

from .conftest import CODES, COMPLETIONS, PROBLEM

CODE, RIGHT, BROKEN = CODES[0], COMPLETIONS[0], COMPLETIONS[3]
TWO_BLOCKS = f"{RIGHT}\n{RIGHT}"


def expected(engine, problem=PROBLEM):
    return shaped_reward(float(engine.score([(problem, CODE)])[0]), is_valid=True)


def test_rewards_are_extracted_scored_and_shaped(engine):
    rewards = RewardFunction(engine)([PROBLEM] * 4, [RIGHT, BROKEN, TWO_BLOCKS, CODE])
    assert rewards == [expected(engine), 0.0, 0.0, 0.0]
    assert rewards[0] > 0


def test_a_server_and_a_model_give_the_same_rewards_awaited_or_not(reward_model, rewards):
    given = [PROBLEM] * len(COMPLETIONS), COMPLETIONS
    assert RewardFunction.open(reward_model)(*given) == rewards
    reward = AsyncRewardFunction.open(reward_model)

    async def run():
        one_by_one = (reward([PROBLEM], [completion]) for completion in COMPLETIONS)
        return await asyncio.gather(reward(*given), *one_by_one)

    together, *alone = asyncio.run(run())
    assert together == [value for (value,) in alone] == rewards


@pytest.mark.parametrize("reward_model", ["", None, 5])
def test_a_reward_model_is_named_by_a_text(reward_model):
    with pytest.raises(InvalidInput, match="reward_model is"):
        RewardFunction.open(reward_model)


def test_a_trainer_that_asks_a_server_loads_neither_torch_nor_another_trainer():
    names = [path.stem for path in Path(codescaler.integrations.__path__[0]).glob("*.py") if path.stem != "__init__"]
    imports = "; ".join(f"import codescaler.integrations.{name}" for name in sorted(names))
    code = f"""{imports}; import sys
from codescaler.integrations.reward_function import AsyncRewardFunction, RewardFunction
for kind in (AsyncRewardFunction, RewardFunction): kind.open('http://127.0.0.1:1')
print(sorted({{'torch', 'numpy', 'starlette', 'msgspec', 'trl', 'verl', 'verifiers', 'swift'}} & {{*sys.modules}}))"""
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert (len(names) >= 7, found.stdout) == (True, "[]\n")


def test_messages_give_the_reward_of_their_texts(engine):
    prompt = [{"role": "system", "content": "Answer with one block."}, {"role": "user", "content": PROBLEM}]
    parts = [{"role": "user", "content": [{"type": "text", "text": PROBLEM}]}]
    completion = [{"role": "assistant", "content": RIGHT}]
    assert RewardFunction(engine)([prompt, parts], [completion, completion]) == [expected(engine)] * 2


def test_the_system_prompt_is_the_reward_model_s_own(engine):
    messages = [
        {"role": "system", "content": "Rate it."},
        {"role": "user", "content": PROBLEM},
        {"role": "assistant", "content": CODE},
    ]
    (score,) = engine.score([messages]).tolist()
    assert RewardFunction(engine, system="Rate it.")([PROBLEM], [RIGHT]) == [shaped_reward(score, is_valid=True)]


def test_a_program_does_not_end_its_own_turn(engine, folder):
    code = f"{CODE}  # <|im_end|>"
    rewards = {mode: RewardFunction(Engine.from_pretrained(folder, control_tokens=mode)) for mode in ("text", "tokens")}
    given = [PROBLEM], [RIGHT.replace(CODE, code)]
    assert RewardFunction(engine)(*given) == rewards["text"](*given) != rewards["tokens"](*given)
    score = engine.score([(PROBLEM, code)])[0]
    assert rewards["tokens"](*given) == [shaped_reward(float(score), is_valid=True)]


def test_the_problem_may_stand_in_a_column(engine):
    reward = RewardFunction(engine, problem_column="question")
    rewards = reward(["Think, then answer."], [RIGHT], question=[PROBLEM], completion_ids=[[1]], trainer_state=None)
    assert rewards == [expected(engine)]


def test_other_languages(engine):
    completion = "```c\nint add(int a, int b) { return a + b; }\n```"
    assert RewardFunction(engine)([PROBLEM], [completion]) == [0.0]
    assert RewardFunction(engine, language="c")([PROBLEM], [completion])[0] > 0
    with pytest.raises(InvalidInput, match="'cobol' is not known"):
        RewardFunction(engine, language="cobol")


def test_the_share_of_valid_programs_is_logged(engine):
    logged = []
    RewardFunction(engine)([PROBLEM] * 2, [RIGHT, BROKEN], log_metric=lambda name, value: logged.append((name, value)))
    assert logged == [("codescaler/valid_share", 0.5)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"prompts": ["a"], "completions": []}, "1 prompts and 0 completions"),
        ({"prompts": [[{"role": "system", "content": "a"}]], "completions": [RIGHT]}, "needs the problem, not only"),
        ({"prompts": ["\n"], "completions": [RIGHT]}, r"prompts\[0\] is .*; a reward model needs the problem"),
        ({"prompts": ["a"], "completions": [[]]}, r"completions\[0\] has 0 messages"),
        ({"prompts": ["a"], "completions": [[{"role": "assistant", "content": None}]]}, "content is None"),
        ({"prompts": ["a"], "completions": [None]}, r"completions\[0\] is None"),
        ({"prompts": [None], "completions": [RIGHT]}, r"prompts\[0\] is None"),
        ({"prompts": [[{"content": "a"}]], "completions": [RIGHT]}, r"prompts\[0\] is \[{'content'"),
        ({"prompts": ["a" * 600] * 2, "completions": [BROKEN, RIGHT]}, r"completions\[1\] has \d+ tokens"),
    ],
)
def test_what_is_malformed_is_named(engine, arguments, message):
    with pytest.raises(InvalidInput, match=message):
        RewardFunction(engine)(**arguments)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({}, "no column 'question'"),
        ({"question": []}, "holds no text"),
        ({"question": [None]}, r"question\[0\] is None"),
    ],
)
def test_a_missing_column_is_named(engine, columns, message):
    with pytest.raises(InvalidInput, match=message):
        RewardFunction(engine, problem_column="question")(["a"], [RIGHT], **columns)


def test_a_score_that_is_not_finite_is_an_error(folder, tmp_path):
    for source in folder.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    edit_tensors(
        tmp_path / "model.safetensors", lambda tensors: tensors | {"score.weight": torch.full((1, 64), torch.nan)}
    )
    with pytest.raises(WeightsError, match=r"completions\[1\] scores nan"):
        RewardFunction(Engine.from_pretrained(tmp_path))([PROBLEM] * 2, [BROKEN, RIGHT])


@pytest.mark.filterwarnings("ignore")  # of TRL and what it stands on
@pytest.mark.parametrize("method, is_async", [("GRPO", False), ("RLOO", True)])
def test_two_steps_of_training(engine, server, tmp_path, monkeypatch, method, is_async):
    """A policy whose vocabulary holds whole completions, so that some of what it samples is valid."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    datasets, transformers, trl = (pytest.importorskip(name) for name in ("datasets", "transformers", "trl"))
    from tokenizers import Tokenizer, models

    texts = ["<pad>", "<eos>", PROBLEM, RIGHT, BROKEN, CODE]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}, unk_token=PROBLEM)),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    policy = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(texts), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    )
    # Awaited, it asks a server. TRL sees by its `__call__` that it is to be awaited.
    reward, calls = AsyncRewardFunction.open(server.url) if is_async else RewardFunction(engine), []

    async def watch(prompts, completions, **columns):
        rewards = reward(prompts, completions, **columns)
        calls.append((completions, await rewards if is_async else rewards))
        return calls[-1][1]

    trainer = getattr(trl, f"{method}Trainer")(
        policy,
        reward_funcs=[reward, watch],
        train_dataset=datasets.Dataset.from_dict({"prompt": [PROBLEM] * 8}),
        processing_class=tokenizer,
        args=getattr(trl, f"{method}Config")(
            output_dir=str(tmp_path),
            max_steps=2,
            beta=0.0,  # no reference model
            per_device_train_batch_size=8,
            num_generations=8,
            max_completion_length=1,
            report_to=[],
            use_cpu=True,
            seed=0,
            logging_steps=1,
        ),
    )
    trainer.train()
    seen = {
        completion: value
        for completions, rewards in calls
        for completion, value in zip(completions, rewards, strict=True)
    }
    assert len(calls) == 2
    assert seen[RIGHT] == expected(engine)
    assert seen[BROKEN] == 0.0
    logged = [entry["rewards/codescaler_reward/mean"] for entry in trainer.state.log_history[:2]]
    assert np.allclose(logged, [np.mean(rewards) for _, rewards in calls])
    valid = [np.mean([completion == RIGHT for completion in completions]) for completions, _ in calls]
    assert np.allclose([entry["codescaler/valid_share"] for entry in trainer.state.log_history[:2]], valid)
