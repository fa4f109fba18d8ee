"""Each run of the demo trains a tiny policy for two steps, evaluates it, and goes on after a kill."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import peft
import pytest
import torch
import transformers
import trl
from safetensors.torch import load_file
from tokenizers import Tokenizer, models

from codescaler import Engine, RewardFunction, RewardMonitor
from codescaler.data.sample.local_model import compute_model_digest
from codescaler.errors import InvalidInput
from codescaler.testing import save_chat, save_random_checkpoint

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
ANSWERS = [3, -1]  # to 1 and 2, of the two problems of a split
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
    with (folder / "problems.jsonl").open("w") as file:
        for split, text in TEXTS.items():
            for place in range(2):
                tests = {"statements": [f"assert add(1, 2) == {ANSWERS[place]}"], "entry_points": ["add"]}
                task = {"task_id": f"{split}/{place}", "prompt": f"{text} ({place})", "tests": tests, "split": split}
                file.write(json.dumps(task) + "\n")
    return folder


ENVIRONMENT = {"TRL_EXPERIMENTAL_SILENCE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def make_command(folder, *words, steps=2, output="runs"):
    options = ("--policy", folder / "policy", "--problems", folder / "problems.jsonl", "--output", folder / output)
    sizes = ("--steps", steps, "--prompts", 2, "--samples", 4, "--eval-samples", 4, "--max-tokens", 1)
    rates = ("--temperature", 1, "--save-steps", 1, "--learning-rate", 0.01)
    return [sys.executable, DEMO, *map(str, (*words, *options, *sizes, *rates))]


def call(command):
    return subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)


def run(folder, *words, steps=2, output="runs"):
    done = call(make_command(folder, *words, steps=steps, output=output))
    assert done.returncode == 0, done.stderr
    return read_lines(folder / output / "figures.jsonl")


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def records(folder):
    return run(folder, *NAMES)


def test_every_run_trains_and_evaluates(folder, records):
    assert [record["run"] for record in records] == NAMES
    assert all(record["reward_models"] == ["nano"] and record["stopped"] is None for record in records)
    for record in records:
        assert record["num_problems"] == 2
        assert 0 <= record["avg_at_k"]["mean"] <= record["valid_share"]["mean"] <= 1
        assert set(record["avg_by_difficulty"]) == {"None"}
    for name in ("validity", "model", "tests", "mixed"):
        history = read_lines(folder / "runs" / name / "training.jsonl")
        assert len(history) == 2 and any(step["reward"] > 0 for step in history)
        assert all(0 <= step["passed_share"] <= 1 for step in history)
        assert name != "tests" or [step["passed_share"] for step in history] == [step["reward"] for step in history]
        assert (folder / "runs" / name / "training.png").stat().st_size > 2000
        assert (folder / "runs" / name / "policy/model.safetensors").is_file()
    kept, right = (read_lines(folder / "runs" / name / "kept.jsonl") for name in ("rejection", "rejection-tests"))
    assert all(row["completion"][0]["content"] in COMPLETIONS[:-1] for row in kept)
    subtracts = [("return a - b" in row["completion"][0]["content"], "(1)" in str(row["prompt"])) for row in right]
    assert right and all(is_answer == is_asked for is_answer, is_asked in subtracts)


def test_a_killed_run_goes_on_as_if_it_had_not_been(folder):
    """Over several passes over the prompts, with adapters and the alarm; a run before it has its figures already."""
    words, steps = ("base", "model", "--lora", 4), 12
    whole = run(folder, *words, steps=steps, output="whole")
    command = make_command(folder, *words, steps=steps, output="killed")
    with subprocess.Popen(command, env=os.environ | ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        checkpoints = folder / "killed/model/checkpoints"
        while not [*checkpoints.glob("checkpoint-[3-9]/trainer_state.json")]:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not (folder / "killed/model/policy").exists()
    again = run(folder, *words, steps=steps, output="killed")
    assert [record["run"] for record in again] == ["base", "model"] and again[1]["minutes"] is None
    assert [record["avg_at_k"] for record in again] == [record["avg_at_k"] for record in whole]
    kept, unkilled = (read_lines(folder / name / "model/training.jsonl") for name in ("killed", "whole"))
    assert [step["step"] for step in kept] == list(range(1, steps + 1))
    for figure in ("reward", "passed_share"):
        assert [step[figure] for step in kept] == [step[figure] for step in unkilled]
    assert len({step["reward"] for step in kept}) > 1
    weights = [load_file(folder / name / "model/policy/model.safetensors") for name in ("killed", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    seen, unkilled = (read_lines(folder / name / "model/monitor.jsonl") for name in ("killed", "whole"))
    assert seen == unkilled and seen


@pytest.fixture
def language_model(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", "CausalLM", vocab_size=300, pad_token_id=299, num_hidden_layers=1)
    save_chat(tmp_path)
    return tmp_path


def test_a_language_model_rewards_by_its_likelihood(language_model, monkeypatch):
    monkeypatch.syspath_prepend(str(DEMO))
    from rewards import open_combined_reward, open_reward

    options = SimpleNamespace(rm=[f"{language_model}:likelihood_mean"])
    problem, scorer = TEXTS["train"], {"scorer": "likelihood_mean"}
    (likelihood,) = Engine.from_pretrained(language_model, **scorer).score([(problem, PROGRAMS[0])])
    for reward in (open_reward(options), open_combined_reward(options)):
        rewards = reward([problem] * 2, [COMPLETIONS[0], COMPLETIONS[-1]])
        assert likelihood < 0 and rewards == [pytest.approx(np.log1p(np.exp(likelihood))), 0.0]


def test_standardised_scores_of_several_models_are_added(language_model, monkeypatch):
    monkeypatch.syspath_prepend(str(DEMO))
    from rewards import open_combined_reward, open_reward

    options = SimpleNamespace(rm=["nano", f"lm={language_model}:likelihood"])
    engines = Engine.from_pretrained("nano"), Engine.from_pretrained(language_model, scorer="likelihood")
    prompts = [text for text in TEXTS.values() for _ in range(4)]
    completions = [*COMPLETIONS[:3], COMPLETIONS[-1]] * 2
    expected = []
    for problem in TEXTS.values():
        scores = np.array([engine.score([(problem, code) for code in PROGRAMS[:3]]) for engine in engines])
        z = (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)
        expected += [*np.log1p(np.exp(z.sum(0))), 0.0]
    np.testing.assert_allclose(open_combined_reward(options)(prompts, completions), expected, rtol=1e-5)
    first = RewardFunction(engines[0])
    assert open_reward(options)(prompts, completions) == first(prompts, completions)


@pytest.mark.parametrize(
    "models, message",
    [
        (["http://127.0.0.1:1:likelihood"], "a server, which has a scorer of its own"),
        (["folder:likelihood", "nano"], "a sum over tokens, whose reward is 0; give :likelihood_mean, or another"),
        (["nano", "nano"], "the name 'nano' is taken"),
    ],
)
def test_reward_models_that_fit_no_run_are_refused(folder, models, message):
    done = call(make_command(folder, "model", *(w for m in models for w in ("--rm", m)), output="refused"))
    assert done.returncode != 0 and message in done.stderr and not (folder / "refused").exists()


@pytest.mark.parametrize(
    "run, words, low",
    [
        ("model", ("--steps", 0), 1),
        ("rejection", ("--steps", -1), 1),
        ("model", ("--samples", 1), 2),
        ("model", ("--stop-after", -1), 0),
        ("base", ("--eval-samples", 0), 1),
    ],
)
def test_a_number_that_no_run_can_have_leaves_nothing_behind(folder, run, words, low):
    done = call([*make_command(folder, run, output="numbers"), *map(str, words)])
    assert done.returncode != 0 and not (folder / "numbers").exists()
    assert f"{words[0]} {words[1]}; give a whole number of at least {low} for {run}" in done.stderr


def test_samples_of_other_prompts_or_without_completions_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DEMO))
    from rewards import read_samples

    file, tasks = tmp_path / "samples.jsonl", {"11": None}
    file.write_text(json.dumps({"task_id": 11, "candidates": [{"completion": "a"}]}) + "\n")
    assert [group["task_id"] for group in read_samples(file, tasks)] == ["11"]
    with pytest.raises(InvalidInput, match="has no samples of any of 1 prompts; sample those of --train-split"):
        read_samples(file, {"12": None})
    file.write_text(json.dumps({"task_id": "11", "candidates": [{"code": "a"}]}) + "\n")
    with pytest.raises(InvalidInput, match="11: a candidate has no completion"):
        read_samples(file, tasks)


def test_other_options_are_refused(folder, records):
    done = call(make_command(folder, "tests", steps=3))
    assert done.returncode != 0
    assert "was begun with steps 2, and now it is 3; give another --output" in done.stderr
    done = call(make_command(folder, "tests", "--train-limit", 0, output="none"))
    assert done.returncode != 0 and "limit 0; give a whole number of at least 1" in done.stderr
    assert not (folder / "none").exists()  # what was mistyped is not held against the next call


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_the_trainer_of_cpus_computes_what_trl_s_does(folder, tmp_path, monkeypatch):
    """On prompts and completions of many lengths, from fewer tokens."""
    monkeypatch.syspath_prepend(str(DEMO))
    from training import CpuGRPOTrainer

    def train(kind):
        def roll_out(prompts, trainer):
            source = random.Random(trainer.state.global_step)
            lengths = [(1 + place // 4 * 3, source.randint(1, 6)) for place in range(len(prompts))]
            drawn = [[[source.randint(2, 20) for _ in range(n)] for n in pair] for pair in lengths]
            return {"prompt_ids": [p for p, _ in drawn], "completion_ids": [c for _, c in drawn], "logprobs": None}

        config = trl.GRPOConfig(
            output_dir=str(tmp_path), max_steps=2, num_generations=4, per_device_train_batch_size=4,
            gradient_accumulation_steps=2, max_completion_length=6, learning_rate=0.01, loss_type="dapo",
            gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to=[], bf16=False, use_cpu=True,
        )  # fmt: skip
        trainer = kind(
            model=transformers.AutoModelForCausalLM.from_pretrained(folder / "policy"),
            reward_funcs=lambda completions, **_: [float(len(completion)) for completion in completions],
            args=config,
            train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in TEXTS.values()]),
            processing_class=transformers.AutoTokenizer.from_pretrained(folder / "policy"),
            rollout_func=roll_out,
        )
        num_tokens = []
        trainer.model.model.register_forward_pre_hook(
            lambda _, args, options: num_tokens.append(options["input_ids"].numel()), with_kwargs=True
        )
        trainer.train()
        logged = [record for record in trainer.state.log_history if "reward" in record]
        return sum(num_tokens), [[r[name] for name in ("reward", "loss", "grad_norm", "entropy")] for r in logged]

    (num_own, own), (num_of_trl, of_trl) = train(CpuGRPOTrainer), train(trl.GRPOTrainer)
    assert num_own < num_of_trl and own[0][2] > 0
    np.testing.assert_allclose(own, of_trl, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("save_steps", [1, 100])
def test_after_an_alarm_the_policy_is_that_before_it(folder, tmp_path, monkeypatch, save_steps):
    monkeypatch.syspath_prepend(str(DEMO))
    import training

    from codescaler.tasks import read_tasks

    monitors = []

    def watch(reward, tasks, options, log):
        """Calls nearly every window an alarm."""
        monitors.append(RewardMonitor(reward, second=None, log=log, level=0.99, num_groups=1, num_start_windows=2,
                                      stop_after=2))  # fmt: skip
        return monitors[0]

    monkeypatch.setattr(training, "watch_reward", watch)
    tasks = {task.task_id: task for task in read_tasks(folder / "problems.jsonl")}
    options = SimpleNamespace(
        policy=folder / "policy", steps=20, samples=4, prompts=2, max_tokens=1, temperature=1.0, learning_rate=0.1,
        lora=4, save_steps=save_steps, stop_after=2, seed=0, rm=None,
    )  # fmt: skip
    training.train_grpo(options, tasks, [RewardFunction(Engine.from_pretrained("nano"))], tmp_path)
    (monitor,) = monitors
    assert monitor.should_stop and len(read_lines(tmp_path / "training.jsonl")) < 20
    name = "model.layers.0.mlp.down_proj.weight"

    def read_weights(step):
        model = training.load_policy(options)
        if step > 0 and save_steps == 1:
            model = peft.PeftModel.from_pretrained(model, tmp_path / f"checkpoints/checkpoint-{step}")
            model = model.float().merge_and_unload()
        return model.float().state_dict()[name]

    policy = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy").state_dict()[name]
    assert torch.equal(policy, read_weights(monitor.alarm_step - 1))
    told = json.loads((tmp_path / training.STOPPED_FILE).read_text())
    assert told == {"alarm_step": monitor.alarm_step, "policy_step": monitor.alarm_step - 1 if save_steps == 1 else 0}
    assert save_steps == 100 or not torch.equal(policy, read_weights(monitor.alarm_step))


@pytest.mark.parametrize("num, expected", [(1, [1]), (2, [1, 2]), (9, [1, 2, 0])])
def test_the_best_of_different_samples_are_kept(monkeypatch, num, expected):
    monkeypatch.syspath_prepend(str(DEMO))
    from training import choose_kept

    completions, rewards = ["a", "b", "c", "b", "d", "c"], [0.5, 2.0, 2.0, 2.0, 0.0, 2.0]
    assert choose_kept(completions, rewards, num) == expected


def test_the_alarm_has_its_start_in_samples_from_before_the_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DEMO))
    from rewards import reward_validity, watch_reward

    samples, drawn = tmp_path / "samples.jsonl", {"temperature": 1.0, "top_p": 1.0, "max_tokens": 1}
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/model.safetensors").write_bytes(b"weights")

    def write_samples(**generator):
        """Of the prompts of the run, and of one more."""
        candidates = [{"completion": text} for text in COMPLETIONS[:2]]
        known = {"answered_by": compute_model_digest(tmp_path / "policy")}
        rest = {"candidates": candidates, "generator": drawn | known | generator}
        groups = [{"task_id": str(n), "prompt": f"Add {n}.", **rest} for n in range(97)]
        samples.write_text("".join(json.dumps(group) + "\n" for group in groups))

    tasks = dict.fromkeys(map(str, range(96)))
    options = SimpleNamespace(
        policy=tmp_path / "policy", rm=None, stop_after=3, samples_file=samples, seed=0, samples=2,
        temperature=1.0, max_tokens=1,
    )  # fmt: skip
    write_samples()
    reward, log = RewardFunction(Engine.from_pretrained("nano")), tmp_path / "monitor.jsonl"
    monitor = watch_reward(reward, tasks, options, log)
    assert [(window["p"], window["steps"]) for window in read_lines(log)] == [(None, [None] * 8)] * 12
    window = monitor.observe([f"Add {n}." for n in range(8)] * 2, [*COMPLETIONS[:1] * 8, *COMPLETIONS[1:2] * 8])
    assert window.p > 0.018 and watch_reward(reward_validity, tasks, options, log) is None
    del tasks["0"]
    with pytest.raises(InvalidInput, match="the samples have 95"):
        watch_reward(reward, tasks, options, tmp_path / "few.jsonl")
    (tmp_path / "policy/model.safetensors").write_bytes(b"what it learned")
    with pytest.raises(InvalidInput, match=r"drawn with answered_by \w{16}, and the run draws with"):
        watch_reward(reward, tasks, options, tmp_path / "learned.jsonl")
    write_samples(answered_by="an endpoint", model="policy")  # which cannot say more
    assert watch_reward(reward, tasks | {"0": None}, options, tmp_path / "endpoint.jsonl") is not None
    write_samples(top_p=0.95)
    with pytest.raises(InvalidInput, match=r"drawn with top_p 0.95, and the run draws with 1.0"):
        watch_reward(reward, tasks, options, tmp_path / "other.jsonl")


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # of PEFT's call to transformers
def test_completions_are_drawn_by_a_copy_of_the_policy(folder, monkeypatch):
    """With what it has learned, and not by the policy itself, whose forward TRL replaces."""
    monkeypatch.syspath_prepend(str(DEMO))
    from rollouts import make_rollouts
    from trl.trainer.utils import add_fused_lm_head

    options = SimpleNamespace(policy=folder / "policy", temperature=1.0, max_tokens=4, seed=0)
    policy = transformers.AutoModelForCausalLM.from_pretrained(options.policy)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.policy)
    add_fused_lm_head(policy)
    adapted = peft.get_peft_model(policy, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False))
    used = []
    policy.model.register_forward_pre_hook(lambda module, _: used.append(module is policy.model))
    trainer = SimpleNamespace(
        processing_class=tokenizer,
        model=adapted,
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        state=SimpleNamespace(global_step=0),
    )
    prompts = [[{"role": "user", "content": f"{text} (0)"}] for text in TEXTS.values() for _ in range(4)]
    drawn = make_rollouts(options)(prompts, trainer)
    assert drawn["prompt_ids"][0] != drawn["prompt_ids"][-1]
    assert max(map(len, drawn["completion_ids"])) == 4
    assert used and not any(used)
    with torch.no_grad():
        learned = [parameter for name, parameter in adapted.named_parameters() if "lora_B" in name]
        for parameter in learned:
            parameter.mul_(-3)
    assert make_rollouts(options)(prompts, trainer)["completion_ids"] != drawn["completion_ids"]


def test_two_reward_models_train_a_policy_and_the_alarm_watches_the_first(folder, language_model):
    words = ("--rm", "nano", "--rm", f"{language_model}:likelihood")
    names = [record["run"] for record in run(folder, "model", "rejection", *words, output="combined")]
    assert names == ["model", "rejection"]
    seen = read_lines(folder / "combined/model/monitor.jsonl")
    own = read_lines(folder / "runs/model/monitor.jsonl")
    assert seen[0]["groups"][0] == own[0]["groups"][0]  # of the samples before the first step
    assert all(step["reward"] > 0 for step in read_lines(folder / "combined/model/training.jsonl"))


def test_a_server_gives_the_rewards_of_the_model(folder, records):
    with serve((Engine.from_pretrained("nano"), ("nano",))) as server:
        run(folder, "model", "--rm", server.url, output="served")
    served, own = (read_lines(folder / output / "model/training.jsonl") for output in ("served", "runs"))
    assert len(served) == 2 and any(step["reward"] > 0 for step in served)
    assert [step["reward"] for step in served] == [step["reward"] for step in own]
