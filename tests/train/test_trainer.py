"""Training runs on tiny models: what they learn, what they leave behind, and that nothing interrupts them for good."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from codescaler.cli import main
from codescaler.engine import Engine
from codescaler.engine.exits import Exits
from codescaler.errors import InvalidInput, TrainingDiverged
from codescaler.testing import FLOAT32_SCORE_LIMIT, edit_json, edit_tensors, save_chat, save_random_checkpoint
from codescaler.text.chat import load_chat, make_messages
from codescaler.train import TrainConfig, fit

PROBE = [("Problem 3: add two numbers.", code) for code in ("def f(a, b):\n    return a + b", "x", "return 1\n" * 9)]
CONFIG = TrainConfig(learning_rate=3e-3, epochs=3, step_tokens=700, micro_batch_tokens=500, weight_decay=0.01)


def make_groups(count=8, split=None, first=0, seed=0):
    """Problems whose correct programs return a sum, in groups of four."""
    random = np.random.default_rng(seed + first)
    return [
        {
            "task_id": f"t/{task}",
            "prompt": f"Problem {task}: add two numbers.",
            "split": split,
            "candidates": [
                {"code": f"def f(a, b):\n    c = {random.integers(99)}\n    return a {s} b", "passed": s == "+"}
                for s in "++--"
            ],
        }
        for task in range(first, first + count)
    ]


@pytest.fixture(scope="module", params=["qwen3", "gemma2"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save_random_checkpoint(folder, request.param, "CausalLM", vocab_size=300, pad_token_id=299, num_hidden_layers=2)
    save_chat(folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    save_random_checkpoint(folder, "qwen3", "CausalLM", vocab_size=300, pad_token_id=299, num_hidden_layers=2)
    save_chat(folder)
    return folder


def weights_of(run):
    return {name: t for path in sorted((run / "model").glob("*.safetensors")) for name, t in load_file(path).items()}


def assert_same_weights(left, right):
    left, right = weights_of(left), weights_of(right)
    assert left.keys() == right.keys() and left
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def log_of(run, kind="step"):
    return [r for r in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if r["kind"] == kind]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of PEFT, by transformers
@pytest.mark.parametrize("method, rate", [("full", 3e-3), ("lora", 1e-2), ("head", 3e-2)])
def test_it_learns_and_the_folder_loads_everywhere(model, tmp_path, method, rate):
    config = dataclasses.replace(CONFIG, method=method, learning_rate=rate, epochs=6)
    report = fit(model, make_groups(), tmp_path / "run", config, validation=make_groups(3, first=100))
    assert report.best.loss < report.before.loss and report.best.pair_accuracy > 0.9
    assert report.num_problems == 8 and report.num_pairs == 32
    steps = log_of(tmp_path / "run")
    assert len(steps) == report.num_steps and [r["step"] for r in steps] == [*range(1, len(steps) + 1)]
    assert steps[-1]["loss"] < steps[0]["loss"] and all(r["tokens_per_second"] > 0 for r in steps)
    assert (tmp_path / "run/curves.png").stat().st_size > 1000
    assert any((tmp_path / "run/tensorboard").iterdir())

    folder = tmp_path / "run/model"
    ours = Engine.from_pretrained(folder, dtype="float32").score(PROBE)
    if method == "lora":
        import peft

        base = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
        peer = peft.PeftModel.from_pretrained(base, folder)
    else:
        peer = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    chat = load_chat(folder)
    for (prompt, code), score in zip(PROBE, ours, strict=True):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": code}]
        (ids,) = chat.encode([chat.render(messages)])
        with torch.no_grad():
            theirs = peer.eval()(torch.from_numpy(ids.astype(np.int64))[None]).logits.item()
        assert abs(score - theirs) <= FLOAT32_SCORE_LIMIT * max(1.0, abs(theirs))


def test_a_bfloat16_checkpoint_is_trained_and_written_in_float32(tmp_path):
    folder = tmp_path / "bf16"
    save_random_checkpoint(folder, "llama", vocab_size=300, pad_token_id=299, dtype=torch.bfloat16)
    save_chat(folder)
    fit(folder, make_groups(), tmp_path / "run", dataclasses.replace(CONFIG, learning_rate=1e-4, max_steps=3))
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/model")
    assert peer.dtype == torch.float32
    engine, chat = Engine.from_pretrained(tmp_path / "run/model"), load_chat(tmp_path / "run/model")
    assert engine.dtype == "float32"
    for (prompt, code), score in zip(PROBE, engine.score(PROBE), strict=True):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": code}]
        (ids,) = chat.encode([chat.render(messages)])
        with torch.no_grad():
            theirs = peer.eval()(torch.from_numpy(ids.astype(np.int64))[None]).logits.item()
        assert abs(score - theirs) <= FLOAT32_SCORE_LIMIT * max(1.0, abs(theirs))


def test_the_model_given_is_kept_where_nothing_beats_it(small, tmp_path):
    config = dataclasses.replace(CONFIG, learning_rate=1e-9, max_steps=1)
    start = fit(small, make_groups(), tmp_path / "start", dataclasses.replace(CONFIG, epochs=3)).output_dir / "model"
    validation = make_groups(3, first=100)
    good = fit(start, make_groups(), tmp_path / "run", config, validation=validation)
    assert good.before.pair_accuracy == good.best.pair_accuracy == 1.0
    away = dataclasses.replace(config, learning_rate=1.0, max_grad_norm=1e9)
    report = fit(start, make_groups(), tmp_path / "worse", away, validation=validation)
    assert report.best_step == 0 and report.best == report.before
    for name, tensor in load_file(start / "model-00001-of-00002.safetensors").items():
        assert torch.equal(tensor, weights_of(tmp_path / "worse")[name]), name


def test_what_cannot_be_written_shows_before_the_first_step(small, tmp_path):
    import shutil

    shutil.copytree(small, tmp_path / "model")
    chat = load_chat(small)
    (ids,) = chat.encode([chat.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])])
    edit_json(tmp_path / "model/config.json", pad_token_id=int(ids[-1]))
    with pytest.raises(InvalidInput, match="the chat template ends in the pad token"):
        fit(tmp_path / "model", make_groups(), tmp_path / "run", CONFIG)
    assert not (tmp_path / "run/log.jsonl").exists()


def test_programs_that_read_the_same_are_one(small, tmp_path):
    same = [{"code": "f = 1", "passed": True}, {"code": "f = 1", "passed": True}, {"code": "g = 2", "passed": False}]
    report = fit(
        small, [*make_groups(2), {"task_id": "s", "prompt": "p", "candidates": same}], tmp_path / "run", CONFIG
    )
    assert report.counts["num_duplicates"] == 1 and report.num_pairs == 2 * 4 + 1


def test_pairs_are_groups_of_two(small, tmp_path):
    pairs = [
        {"prompt": group["prompt"], "chosen": right["code"], "rejected": wrong["code"], "margin": 0.5}
        for group in make_groups()
        for right in group["candidates"][:2]
        for wrong in group["candidates"][2:]
    ]
    paper = {"question_content": "Add.", "code_pos": "a + b", "code_neg": "a - b"}
    report = fit(small, [*pairs, paper], tmp_path / "run", CONFIG)
    assert report.num_problems == report.num_pairs == 33
    assert log_of(tmp_path / "run")[-1]["loss"] < log_of(tmp_path / "run")[0]["loss"]


def with_scores(groups, score):
    """The same groups with a teacher's scores, and without verdicts in every second one."""
    return [
        group
        | {
            "candidates": [
                {"code": c["code"], "passed": c["passed"] if index % 2 else None, "score": score(c["code"])}
                for c in group["candidates"]
            ]
        }
        for index, group in enumerate(groups)
    ]


def test_a_teachers_scores_are_learned_where_nobody_knows_what_is_correct(small, tmp_path):
    config = dataclasses.replace(CONFIG, teacher_weight=1.0, epochs=10)
    taught = with_scores(make_groups(), lambda code: 3.0 * ("+" in code))
    report = fit(small, taught, tmp_path / "run", config, validation=make_groups(3, first=100))
    assert report.num_problems == 8 and report.num_pairs == 4 * 4
    assert report.best.pair_accuracy == 1.0
    engine = Engine.from_pretrained(tmp_path / "run" / "model")
    right, wrong = engine.score(
        [("Problem 3: add two numbers.", f"def f(a, b):\n    c = 7\n    return a {s} b") for s in "+-"]
    )
    assert right - wrong == pytest.approx(3.0, abs=1.0)


def test_a_teacher_without_scores_is_refused(small, tmp_path):
    config = dataclasses.replace(CONFIG, teacher_weight=1.0)
    with pytest.raises(InvalidInput, match=r"groups\[0\]: candidates\[0\]: score is None, .* `codescaler score`"):
        fit(small, make_groups(), tmp_path / "run", config)
    infinite = with_scores(make_groups(), lambda code: math.inf)
    with pytest.raises(InvalidInput, match="score is inf"):
        fit(small, infinite, tmp_path / "run", config)


def test_a_negative_is_taught_by_verdicts_alone(small, tmp_path):
    """The teacher knows no difference; a negative without its score falls all the same, in any micro-batch."""
    code = "def f(a, b):\n    c = {}\n    return a {} b"
    groups = with_scores(make_groups(), lambda code: 1.0)
    for index, group in enumerate(groups):
        group["candidates"] = [c | {"passed": "+" in c["code"]} for c in group["candidates"]]
        if index % 3:
            group["candidates"].append({"code": code.format(index, "%"), "passed": False, "negative": "other"})
    config = dataclasses.replace(CONFIG, teacher_weight=5.0, epochs=20)
    fit(small, groups, tmp_path / "run", config)
    engine = Engine.from_pretrained(tmp_path / "run" / "model")
    right, wrong, negative = engine.score([("Problem 4: add two numbers.", code.format(4, sign)) for sign in "+-%"])
    assert abs(right - wrong) < 0.3 < 1.0 < right - negative
    losses = []
    for tokens in (300, 1500):
        config = dataclasses.replace(config, epochs=1, step_tokens=1500, micro_batch_tokens=tokens)
        fit(small, groups, tmp_path / f"run_{tokens}", config)
        losses.append(log_of(tmp_path / f"run_{tokens}")[0])
    assert losses[1]["gradient_norm"] == pytest.approx(losses[0]["gradient_norm"], rel=1e-4)


def test_the_last_model_is_the_mean_of_the_last_steps(small, tmp_path):
    constant = dataclasses.replace(CONFIG, warmup_fraction=0, final_fraction=1)
    for name, steps, averaged in (("third", 3, 0), ("fourth", 4, 0), ("mean", 4, 0.5)):
        config = dataclasses.replace(constant, max_steps=steps, average_last=averaged)
        fit(small, make_groups(), tmp_path / name, config)
    third, fourth, mean = (weights_of(tmp_path / name) for name in ("third", "fourth", "mean"))
    assert any(not torch.equal(third[name], weight) for name, weight in fourth.items())
    for name, weight in mean.items():
        torch.testing.assert_close(weight, (third[name] + fourth[name]) / 2, rtol=0, atol=1e-6)


def test_records_say_their_split(small, tmp_path):
    groups = make_groups(split="train") + make_groups(2, split="validation", first=50)
    report = fit(small, groups, tmp_path / "run", CONFIG)
    assert (report.num_problems, len(report.best.picks)) == (8, 2)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_interrupted_and_resumed_is_bit_for_bit_uninterrupted(small, tmp_path, monkeypatch, method, checkpointing):
    config = dataclasses.replace(
        CONFIG,
        method=method,
        evaluate_every=2,
        save_every=2,
        gradient_checkpointing=checkpointing,
        average_last=0.5,
    )
    options = {"validation": make_groups(3, first=100)}
    whole = fit(small, make_groups(), tmp_path / "whole", config, **options)
    from codescaler.train.trainer import _Run

    step, stops = _Run._step, iter([3, 5])
    stop = next(stops)

    def interrupted(self, index, folder):
        if index == stop:
            raise KeyboardInterrupt
        return step(self, index, folder)

    monkeypatch.setattr(_Run, "_step", interrupted)
    for following in (5, -1):
        with pytest.raises(KeyboardInterrupt):
            fit(small, make_groups(), tmp_path / "parts", config, resume=True, **options)
        stop = following
    parts = fit(small, make_groups(), tmp_path / "parts", config, resume=True, **options)

    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert (parts.best, parts.before, parts.best_step) == (whole.best, whole.before, whole.best_step)
    for kind in ("step", "validation"):
        logs = [
            [{k: v for k, v in r.items() if "second" not in k and k != "mfu"} for r in log_of(run, kind)]
            for run in (tmp_path / "whole", tmp_path / "parts")
        ]
        assert logs[0] == logs[1]
    assert [p.name for p in (tmp_path / "parts").glob("checkpoint-*")] == [f"checkpoint-{whole.num_steps:06d}"]


SCRIPT = """
import sys, json
from codescaler.train import TrainConfig, fit
model, out, groups, config = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3])), json.loads(sys.argv[4])
fit(model, groups, out, TrainConfig(**config), resume=True, num_threads=1)
"""


def test_killed_at_any_moment_it_goes_on(small, tmp_path):
    """SIGKILL, at moments that nobody chose: of a run from the start, and of one that goes on."""
    (tmp_path / "groups.json").write_text(json.dumps(make_groups()))
    config = {
        "learning_rate": 3e-3,
        "epochs": 15,
        "step_tokens": 500,
        "micro_batch_tokens": 500,
        "save_every": 1,
        "evaluate_every": 1,
    }
    files = map(str, (small, tmp_path / "run", tmp_path / "groups.json"))
    command = [sys.executable, "-c", SCRIPT, *files, json.dumps(config)]
    reached = []
    for _ in range(2):
        before = len(log_of(tmp_path / "run")) if (tmp_path / "run/log.jsonl").exists() else 0
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 300  # a busy machine may need a minute to import torch
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            path = tmp_path / "run/log.jsonl"
            if path.exists() and len(path.read_text().splitlines()) >= before + 4:
                break
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
        process.stderr.close()
        reached.append(before)
    assert reached[1] > 0
    for name in ("run", "whole"):
        fit(small, make_groups(), tmp_path / name, TrainConfig(**config), resume=True, num_threads=1)
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_full_disk_leaves_the_last_checkpoint(small, tmp_path, monkeypatch):
    from codescaler.train import checkpointing

    config = dataclasses.replace(CONFIG, save_every=2)
    save, calls = checkpointing.save_file, []

    def full(tensors, path, *rest):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save(tensors, path, *rest)

    monkeypatch.setattr(checkpointing, "save_file", full)
    with pytest.raises(InvalidInput, match=r"No space left on device.*checkpoint-000002 is intact"):
        fit(small, make_groups(), tmp_path / "run", config)
    assert [p.name for p in (tmp_path / "run").iterdir() if "checkpoint" in p.name] == ["checkpoint-000002"]
    monkeypatch.undo()
    fit(small, make_groups(), tmp_path / "run", config, resume=True)
    fit(small, make_groups(), tmp_path / "whole", config)
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(small, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, save_every=1)
    from codescaler.train.trainer import _Run

    step = _Run._step

    def poisoned(self, index, folder):
        if index == 2:
            with torch.no_grad():
                self.model.norm[0] = torch.nan
        return step(self, index, folder)

    monkeypatch.setattr(_Run, "_step", poisoned)
    with pytest.raises(TrainingDiverged, match=r"step 3: the loss is nan.*checkpoint-000002 is intact"):
        fit(small, make_groups(), tmp_path / "run", config)
    state = load_file(tmp_path / "run/checkpoint-000002/state.safetensors")
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_a_checkpoint_that_was_damaged_is_named(small, tmp_path):
    config = dataclasses.replace(CONFIG, max_steps=2)
    fit(small, make_groups(), tmp_path / "run", config)
    (tmp_path / "run/checkpoint-000002/state.safetensors").write_bytes(b"no tensors")
    with pytest.raises(Exception, match=r"checkpoint-000002/state\.safetensors is damaged"):
        fit(small, make_groups(), tmp_path / "run", config, resume=True)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"groups": []}, "none of 0 groups"),
        ({"groups": [{"task_id": 1, "prompt": "p", "candidates": []}]}, "none of 1 groups"),
        ({"groups": [{"task_id": 1, "prompt": "p", "candidates": [{"code": "x"}]}]}, r"candidates\[0\] has no passed"),
        ({"groups": make_groups(2, split="test")}, "of the split 'test'"),
        ({"validation": make_groups(2)}, "2 tasks are both trained and validated on, such as the task_id 't/0'"),
        (
            {"validation": [{**group, "task_id": f"v{group['task_id']}"} for group in make_groups(2)]},
            "such as the prompt 'Problem 0",
        ),
        ({"validation": make_groups(2, "train", 50)}, "validate on 'validation' only"),
        ({"validation": [{"task_id": 9, "prompt": "p", "candidates": []}]}, "none of 1 validation groups"),
        ({"config": TrainConfig(micro_batch_tokens=20)}, "that fit micro_batch_tokens=20"),
        ({"groups": [{"prompt": "p", "chosen": "a"}]}, "rejected: code is 0"),
        ({"groups": [{"prompt": "p", "chosen": "a", "rejected": "b", "margin": "1"}]}, "margin is '1'"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(small, tmp_path, change, message):
    arguments = {"groups": make_groups(2), "config": TrainConfig(max_steps=1), **change}
    with pytest.raises(InvalidInput, match=message):
        fit(small, arguments.pop("groups"), tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("family", "architecture", "method", "message"),
    [
        ("qwen2", "Qwen2ForRewardModel", "full", "head of kind mlp"),
        ("llama", "GRewardModel", "head", "head of kind mlp"),
        ("llama", "AtheneForSequenceClassification", "full", "head of kind appended_token"),
        ("qwen3", "RewardModel", "lora", "has a reward_model head"),
        ("phi3", "CausalLM", "lora", "its files fuse projections"),
    ],
)
def test_heads_and_files_that_training_cannot_go_on_from(tmp_path, family, architecture, method, message):
    save_random_checkpoint(tmp_path / "rm", family, architecture, pad_token_id=0)
    edit_json(tmp_path / "rm/config.json", reward_token_id=3)
    with pytest.raises(InvalidInput, match=message):
        fit(tmp_path / "rm", make_groups(2), tmp_path / "run", TrainConfig(method=method, max_steps=1))


@pytest.mark.parametrize("family", ["phi3", "gemma3_text"])
def test_a_trained_folder_of_a_new_family_is_the_one_of_transformers(tmp_path, family):
    save_random_checkpoint(tmp_path / "lm", family, "CausalLM", vocab_size=300, pad_token_id=299)
    save_chat(tmp_path / "lm")
    fit(tmp_path / "lm", make_groups(2), tmp_path / "run", TrainConfig(max_steps=1))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/model", dtype=torch.float32)
    ids = [5, 6, 70, 71, 9]
    with torch.no_grad():
        expected = model.eval()(torch.tensor([ids])).logits[0].numpy()
    ours = Engine.from_pretrained(tmp_path / "run/model", dtype="float32").score_tokens([ids])
    np.testing.assert_allclose(ours, expected, rtol=FLOAT32_SCORE_LIMIT)


def test_what_is_too_long_is_counted(small, tmp_path):
    groups = make_groups(4)
    groups[0]["candidates"] += [{"code": "x = 1\n" * 60, "passed": True}]
    groups[1]["candidates"] = [{"code": f"y = {i}\n" * 9, "passed": i % 2 == 0} for i in range(9)]
    groups[2]["candidates"] = [{"code": c * 200, "passed": c == "x"} for c in "xy"]
    groups += [{"task_id": "easy", "prompt": "p", "candidates": [{"code": "1", "passed": True}]}]
    report = fit(small, groups, tmp_path / "run", TrainConfig(max_steps=1, max_length=200, micro_batch_tokens=350))
    counts = {name: count for name, count in report.counts.items() if count}
    assert counts == {"num_long_programs": 3, "num_long_problems": 1, "num_unpaired_problems": 2}
    assert report.num_problems == 2


def test_a_folder_in_use_is_refused(small, tmp_path):
    config = TrainConfig(max_steps=1)
    fit(small, make_groups(2), tmp_path / "run", config)
    with pytest.raises(InvalidInput, match="is there already; resume it"):
        fit(small, make_groups(2), tmp_path / "run", config)
    with pytest.raises(InvalidInput, match=r"of a run with max_steps=1, now 2"):
        fit(small, make_groups(2), tmp_path / "run", TrainConfig(max_steps=2), resume=True)
    with pytest.raises(InvalidInput, match=r"of a run with data="):
        fit(small, make_groups(3), tmp_path / "run", config, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(InvalidInput, match="other is there already; give a new folder"):
        fit(small, make_groups(2), tmp_path / "other", config, resume=True)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_system_prompt_goes_with_the_model(small, tmp_path, method):
    config = TrainConfig(max_steps=1, method=method)
    fit(small, make_groups(2), tmp_path / "run", config, system="Rate it.")
    assert (tmp_path / "run/model/system_prompt.txt").read_text() == "Rate it.\n"
    group = make_groups(1)[0]
    turns = make_messages((group["prompt"], group["candidates"][0]["code"]))
    engine = Engine.from_pretrained(tmp_path / "run/model")
    expected = engine.score([[{"role": "system", "content": "Rate it."}, *turns]])
    assert engine.score([turns]) == expected != engine.score([turns], system="")
    for settings in (
        {"system": "Rate it!"},
        {"control_tokens": "tokens"},
        {"bos": "template"},
        {"chat_template": "{{ messages }}"},
    ):
        name = {"system": "system_prompt"}.get(*settings, *settings)
        with pytest.raises(InvalidInput, match=rf"of a run with {name}="):
            fit(small, make_groups(2), tmp_path / "run", config, resume=True, **{"system": "Rate it."} | settings)


def test_exits_learn_to_say_what_the_last_layer_says(small, tmp_path):
    def measure_gap(weight):
        """How far differences of scores at the exit are from those at the end, as a share of these: a variance."""
        config = TrainConfig(exit_weight=weight, epochs=16, step_tokens=600, learning_rate=4e-3)
        fit(small, make_groups(8), tmp_path / f"{weight}", config)
        folder = tmp_path / f"{weight}/model"
        pairs = [("Problem 0: add two numbers.", c["code"]) for c in make_groups(1)[0]["candidates"]]
        engine = Engine.from_pretrained(folder)
        values = engine.submit_stages(pairs, Exits((1,), ((engine._decoder.head_weight, torch.zeros(1)),))).result()
        return np.var(values[:, 0] - values[:, 1]) / np.var(values[:, 1])

    assert measure_gap(1.0) < 0.1 < measure_gap(0.0)


def test_exits_need_layers_that_learn():
    with pytest.raises(InvalidInput, match="no layer learns"):
        TrainConfig(method="head", exit_weight=0.5)


def test_exits_need_layers_before_the_last(tmp_path):
    save_random_checkpoint(tmp_path / "one", "qwen3", "CausalLM", num_hidden_layers=1)
    with pytest.raises(InvalidInput, match=r"exit_weight=0.5, and .*one has one layer"):
        fit(tmp_path / "one", make_groups(2), tmp_path / "run", TrainConfig(exit_weight=0.5, max_steps=1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused_before_any_step(small, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidInput, match="cannot be written"):
        fit(small, make_groups(2), tmp_path / "run", TrainConfig(max_steps=1))


def test_a_file_where_the_folder_should_be(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=r"cannot be written \(.*Not a directory|cannot be written \(.*exists"):
        fit(small, make_groups(2), tmp_path / "file/run", TrainConfig(max_steps=1))


def test_a_lora_of_a_lora_is_refused(small, tmp_path):
    config = TrainConfig(method="lora", max_steps=1)
    fit(small, make_groups(2), tmp_path / "run", config)
    with pytest.raises(InvalidInput, match="merge it with PEFT"):
        fit(tmp_path / "run/model", make_groups(2), tmp_path / "again", config)


def test_weights_that_are_not_finite_are_named(small, tmp_path):
    import shutil

    shutil.copytree(small, tmp_path / "bad")
    edit_tensors(
        tmp_path / "bad/model.safetensors", lambda t: {**t, "model.norm.weight": t["model.norm.weight"] * torch.nan}
    )
    with pytest.raises(TrainingDiverged, match=r"step 1: the loss is nan.*No checkpoint had been written"):
        fit(tmp_path / "bad", make_groups(2), tmp_path / "run", TrainConfig(max_steps=1))


def test_the_command(small, tmp_path, capsys):
    data = tmp_path / "groups.jsonl"
    data.write_text("".join(json.dumps(g) + "\n" for g in make_groups(4) + make_groups(2, "validation", 50)))
    arguments = ["train", str(small), str(data), "-o", str(tmp_path / "run"), "--max-steps", "2"]
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert "trained on 16 (correct, incorrect) pairs of 4 problems, 2 steps" in output.out
    assert "validation before: pairs ranked correctly" in output.out and "left out: " in output.out
    assert main([*arguments, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"]["pair_accuracies"]
    assert main(arguments) == 2
    assert "is there already; resume it" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from codescaler.cli import main
from codescaler.train.trainer import _Run
step = _Run._step
def killed(self, index, folder):
    if index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, index, folder)
_Run._step = killed
sys.exit(main())
"""

# A thread of gloo's that is left when the interpreter ends may abort the process.
ENDED = """
import os, sys
from codescaler.cli import main
code = main()
names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
sys.exit(code or [name for name in names if "gloo" in name] or 0)
"""


def launch(small, folder, processes, *options, program=ENDED):
    (folder / "program.py").write_text(program)
    data = folder / "groups.jsonl"
    data.write_text("".join(json.dumps(g) + "\n" for g in make_groups(7) + make_groups(2, "validation", 50)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [str(folder / "program.py"), "train", str(small), str(data), "-o", str(folder / "run")]
    command += ["--epochs", "3", "--step-tokens", "600", "--micro-batch-tokens", "300", "--learning-rate", "1e-3"]
    command += ["--exit-weight", "0.5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode == 0) == (program == ENDED), done.stderr[-3000:]
    assert done.stdout.count("trained on") == (program == ENDED)  # one process speaks
    return folder / "run"


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return launch(small, folder, 1)


@pytest.fixture(scope="module", params=[pytest.param("data", marks=pytest.mark.slow), "fsdp"])
def together(small, tmp_path_factory, request):
    """A run of two processes, and how it was launched."""
    options = ("--parallel", request.param, "--save-every", "2")
    return launch(small, tmp_path_factory.mktemp("together"), 2, *options), options


def test_two_processes_have_the_trajectory_of_one(alone, together):
    run, _ = together
    one, two = log_of(alone), log_of(run)
    assert len(one) == len(two) >= 4
    for left, right in zip(one, two, strict=True):
        assert left["num_tokens"] == right["num_tokens"]
        # The same terms in another order, in float32; each step's update is at most the learning rate a weight.
        assert right["loss"] == pytest.approx(left["loss"], abs=1e-6 * right["step"])
        assert right["pair_accuracy"] == pytest.approx(left["pair_accuracy"], abs=0.1)
    mine, theirs = weights_of(alone), weights_of(run)
    for name, tensor in mine.items():
        # Adam turns a gradient near 0 into a step of either sign: a few weights may differ by whole steps.
        gaps = (tensor - theirs[name]).abs()
        assert gaps.mean() < 1e-5 and gaps.max() < 2e-3 * len(one), name


def test_two_processes_go_on_from_their_checkpoint(small, tmp_path, together):
    whole, options = together
    parts = launch(small, tmp_path, 2, *options, program=KILLED)
    assert len(log_of(parts)) == 3 < len(log_of(whole))
    launch(small, tmp_path, 2, *options, "--resume")
    assert_same_weights(whole, parts)
