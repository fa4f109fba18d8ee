"""Each run of the demo trains a tiny policy for two steps, evaluates it, and goes on after a kill."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer, models

from codescaler import Engine

from ..serve.conftest import serve

DEMO = Path(__file__).parents[2] / "examples/rl/demo"
PROGRAMS = [
    "def add(a, b):\n    return a + b",
    "def add(a, b):\n    return a - b",
    # So many that a policy which draws a word blindly finds one in eight tries, but for one run in ten thousand.
    *(f"def add(a, b):\n    return b + a  # {n}" for n in range(13)),
]
COMPLETIONS = [*(f"```python\n{code}\n```" for code in PROGRAMS), "There is none."]
NAMES = ["base", "validity", "model", "tests", "mixed", "rejection", "rejection-tests"]
TEXTS = {"train": "Add two numbers.", "validation": "Add a number and another."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy whose words are whole prompts and completions, and problems with tests."""
    folder = tmp_path_factory.mktemp("demo")
    prompts = [f"{text} ({place})" for text in TEXTS.values() for place in range(2)]
    words = ["<pad>", "<eos>", *prompts, *COMPLETIONS]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        eos_token_id=1, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    transformers.set_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    tests = {"statements": ["assert add(1, 2) == 3"], "entry_points": ["add"]}
    with (folder / "problems.jsonl").open("w") as file:
        for split, text in TEXTS.items():
            for place in range(2):
                task = {"task_id": f"{split}/{place}", "prompt": f"{text} ({place})", "tests": tests, "split": split}
                file.write(json.dumps(task) + "\n")
    return folder


def run(folder, *words, steps=2, output="runs"):
    options = ("--policy", folder / "policy", "--problems", folder / "problems.jsonl", "--output", folder / output)
    sizes = (
        "--steps",
        steps,
        "--prompts",
        2,
        "--samples",
        4,
        "--eval-samples",
        4,
        "--max-tokens",
        1,
        "--temperature",
        1,
    )
    done = subprocess.run(
        [sys.executable, DEMO, *map(str, (*words, *options, *sizes, "--save-steps", 1, "--learning-rate", 0.01))],
        env=os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return read_lines(folder / output / "figures.jsonl")


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def records(folder):
    return run(folder, *NAMES)


def test_every_run_trains_evaluates_and_resumes(folder, records):
    assert [record["run"] for record in records] == NAMES
    for record in records:
        assert record["num_problems"] == 2
        assert 0 <= record["avg_at_k"]["mean"] <= record["valid_share"]["mean"] <= 1
        assert set(record["avg_by_difficulty"]) == {"None"}
    for name in ("validity", "model", "tests", "mixed"):
        history = read_lines(folder / "runs" / name / "training.jsonl")
        assert len(history) == 2 and any(step["reward"] > 0 for step in history)
        assert (folder / "runs" / name / "training.png").stat().st_size > 2000
        assert (folder / "runs" / name / "policy/model.safetensors").is_file()
    kept, right = (read_lines(folder / "runs" / name / "kept.jsonl") for name in ("rejection", "rejection-tests"))
    assert all(row["completion"][0]["content"] in COMPLETIONS[:-1] for row in kept)
    assert all("return a - b" not in row["completion"][0]["content"] for row in right)
    # A run that is killed between its last checkpoint and its last step.
    (folder / "runs/tests/training.jsonl").rename(folder / "runs/tests_before.jsonl")
    shutil.rmtree(folder / "runs/tests/policy")
    for file in (folder / "runs/tests").glob("eval_*"):
        file.unlink()
    assert run(folder, "tests", steps=3)[-1]["run"] == "tests"
    before, after = (read_lines(folder / "runs" / name) for name in ("tests_before.jsonl", "tests/training.jsonl"))
    assert after[:2] == before and [step["step"] for step in after] == [1, 2, 3]


def test_a_server_gives_the_rewards_of_the_model(folder, records):
    with serve((Engine.from_pretrained("nano"), ("nano",))) as server:
        run(folder, "model", "--reward-model", server.url, output="served")
    served, own = (read_lines(folder / output / "model/training.jsonl") for output in ("served", "runs"))
    assert len(served) == 2 and any(step["reward"] > 0 for step in served)
    assert [step["reward"] for step in served] == [step["reward"] for step in own]
