"""Preference data as people have it: the loss of a step is that of TRL's `RewardTrainer` on the same pairs."""

import json

import pytest
import torch

from codescaler.testing import edit_json, save_chat, save_random_checkpoint
from codescaler.train import TrainConfig, fit

SYSTEM = {"role": "system", "content": "Rate correctness."}
CHATS = {
    "prompt and answers": lambda ask, right, wrong: {
        "prompt": [ask],
        "chosen": [right | {"tool_calls": None}],
        "rejected": [wrong | {"tool_calls": None}],
    },
    "shared turns": lambda ask, right, wrong: {"chosen": [ask, right], "rejected": [ask, wrong]},
    "system": lambda ask, right, wrong: {"prompt": [SYSTEM, ask], "chosen": [right], "rejected": [wrong]},
    "several turns": lambda ask, right, wrong: {
        "chosen": [SYSTEM, ask, wrong, ask, right],
        "rejected": [SYSTEM, ask, wrong, ask, wrong],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rm")
    save_random_checkpoint(folder, "qwen3", vocab_size=300, pad_token_id=299, num_hidden_layers=2)
    save_chat(folder)
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|im_start|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    edit_json(folder / "config.json", pad_token_id=256)
    return folder


def make_pairs(shape):
    for index in range(4):
        ask = {"role": "user", "content": f"Add {index} to a number."}
        right, wrong = (
            {"role": "assistant", "content": f"def f(a):\n    return a {sign} {index}{'0' * index}"} for sign in "+-"
        )
        yield CHATS[shape](ask, right, wrong)


def compute_trl_loss(folder, pairs, out):
    import datasets
    import transformers
    from trl import RewardConfig, RewardTrainer

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    settings = RewardConfig(
        output_dir=str(out), per_device_train_batch_size=len(pairs), gradient_checkpointing=False, use_cpu=True,
        bf16=False, report_to=[], max_length=None, disable_tqdm=True,
    )  # fmt: skip
    trainer = RewardTrainer(
        model=model,
        args=settings,
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder),
    )
    batch = trainer.data_collator([*trainer.train_dataset])
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, batch).item()


@pytest.mark.filterwarnings("ignore")  # of TRL's own imports
@pytest.mark.parametrize("shape", CHATS)
def test_the_loss_is_that_of_trl(folder, tmp_path, shape):
    pairs = [*make_pairs(shape)]
    with (tmp_path / "pairs.jsonl").open("w") as file:
        file.writelines(json.dumps(pair) + "\n" for pair in pairs)
    config = TrainConfig(max_steps=1, center_coefficient=0.0, dtype="float32")
    report = fit(folder, tmp_path / "pairs.jsonl", tmp_path / "run", config)
    assert report.num_pairs == len(pairs)
    (step,) = [r for r in map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines()) if r["kind"] == "step"]
    assert step["loss"] == pytest.approx(compute_trl_loss(folder, pairs, tmp_path / "trl"), rel=1e-5)
