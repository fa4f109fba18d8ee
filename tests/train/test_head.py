"""The fitted head: its optimum, its folder, and what it leaves out."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers

from codescaler.engine import Engine
from codescaler.errors import InvalidInput, WeightsError
from codescaler.testing import (
    FLOAT32_SCORE_LIMIT,
    edit_json,
    edit_tensors,
    save_chat,
    save_random_checkpoint,
    save_random_lora,
)
from codescaler.text.chat import load_chat
from codescaler.train import fit_head
from codescaler.train.head import CENTER_COEFFICIENT

NUM_PROBLEMS = 12
PROBE = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]


def make_groups(seed=0):
    """Problems whose correct programs return a sum: the byte before the last tells correct from incorrect programs."""
    random = np.random.default_rng(seed)
    groups = []
    for task in range(NUM_PROBLEMS):
        candidates = [
            {"code": f"def f(a, b):\n    c = {random.integers(1000)}\n    return a {sign} b", "passed": sign == "+"}
            for sign in "++--"
        ]
        groups.append({"task_id": f"t/{task}", "prompt": f"Problem {task}: add two numbers.", "candidates": candidates})
    return groups


@pytest.fixture(scope="module", params=["qwen3", "qwen3_moe", "gemma2"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save_random_checkpoint(folder, request.param, "CausalLM", vocab_size=300, pad_token_id=299)
    save_chat(folder)
    return folder


@pytest.fixture(scope="module")
def fitted(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "rm"
    return folder, fit_head(model, make_groups(), folder)


def test_it_learns_what_there_is_to_learn(fitted):
    folder, report = fitted
    assert (report.num_groups, report.num_groups_used, report.num_programs, report.num_pairs) == (12, 12, 48, 48)
    assert report.output_dir == folder
    assert report.training_accuracy > 0.95
    assert report.held_out_accuracy > 0.8
    low, high = report.held_out_interval
    assert low <= report.held_out_accuracy <= high
    engine = Engine.from_pretrained(folder)
    group = make_groups(seed=1)[0]
    ranked = engine.rerank(group["prompt"], [candidate["code"] for candidate in group["candidates"]])
    assert {candidate.index for candidate in ranked[:2]} == {0, 1}


def test_the_system_prompt_goes_with_the_head(model, fitted, tmp_path):
    groups = make_groups()
    fit_head(model, groups, tmp_path / "option", system="Rate it.")
    fit_head(model, [group | {"system": "Rate it."} for group in groups], tmp_path / "field")
    option, field = (Engine.from_pretrained(tmp_path / name) for name in ("option", "field"))
    assert option.text.system == "Rate it." and field.text.system is None
    pair = (groups[0]["prompt"], "x = 1")
    assert (
        option.score([pair])
        == field.score([pair], system="Rate it.")
        != Engine.from_pretrained(fitted[0]).score([pair])
    )


def test_a_given_template_goes_with_the_head(model, fitted, tmp_path):
    groups, template = make_groups(), "{{ messages[0].content }}{{ messages[1].content }}"
    fit_head(model, groups, tmp_path / "rm", chat_template=template, bos="template")
    assert (tmp_path / "rm/chat_template.jinja").read_text() == template
    engine, ids = Engine.from_pretrained(tmp_path / "rm", bos="template"), load_chat(tmp_path / "rm").tokenizer
    tokens = ids.encode("px = 1", add_special_tokens=False).ids
    assert engine.score([("p", "x = 1")])[0] == engine.score_tokens([tokens])[0]


def test_transformers_gives_the_scores_of_the_folder(fitted):
    folder, _ = fitted
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert model.config.num_labels == 1
    pairs = [(group["prompt"], candidate["code"]) for group in make_groups(2)[:3] for candidate in group["candidates"]]
    expected = []
    for prompt, code in pairs:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": code}]
        ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            expected.append(model(**ids).logits[0, 0].item())
    scores = Engine.from_pretrained(folder, dtype="float32").score(pairs)
    assert np.abs(scores - expected).max() < FLOAT32_SCORE_LIMIT * np.abs(expected).mean()


def test_the_head_is_the_optimum(fitted, model, tmp_path):
    """The objective of the docstring, spelt out in float64, falls in no direction."""
    folder, _ = fitted
    engine = Engine.from_pretrained(folder)
    groups = make_groups()
    pairs = [(group["prompt"], candidate["code"]) for group in groups for candidate in group["candidates"]]
    features = torch.from_numpy(engine.features(pairs)).double()
    scale = features.std(0) * features.shape[1] ** 0.5
    right = torch.tensor([candidate["passed"] for group in groups for candidate in group["candidates"]]).view(-1, 4)

    def objective(head):
        scores = (features @ head).view(-1, 4)
        losses = []
        for row, labels in zip(scores, right, strict=True):
            i, j = row[labels][:, None], row[~labels][None, :]
            pair_losses = -torch.nn.functional.logsigmoid(i - j) + CENTER_COEFFICIENT * (i + j) ** 2
            losses.append(pair_losses.mean())
        return torch.stack(losses).mean() + 1e-2 / 2 * ((head * scale) ** 2).sum()

    from safetensors.torch import load_file

    head = load_file(folder / "model-00002-of-00002.safetensors")["score.weight"][0].double().requires_grad_()
    start = torch.zeros_like(head, requires_grad=True)
    # In the coordinates of the ridge; what is left of the slope comes from the head's rounding to float32.
    slope, steepest = (torch.autograd.grad(objective(at), at)[0].div(scale).norm() for at in (head, start))
    assert slope < 1e-4 * steepest


def test_the_same_again(fitted, model, tmp_path):
    folder, report = fitted
    again = fit_head(model, make_groups(), tmp_path / "again", seed=0)
    assert dataclasses.replace(again, output_dir=folder) == report
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    other = fit_head(model, make_groups(), tmp_path / "other", seed=1)
    assert (tmp_path / "other/model-00002-of-00002.safetensors").read_bytes() == (
        folder / "model-00002-of-00002.safetensors"
    ).read_bytes()
    assert other.training_accuracy == report.training_accuracy


def test_what_is_left_out_is_counted(model, tmp_path):
    groups = make_groups()[:4]
    wrong = groups[0]["candidates"][2]["code"]
    groups[0]["candidates"] += [
        {"code": None, "passed": False},
        {"code": wrong, "passed": False},
        {"code": "x = 1", "passed": True},
        {"code": "x = 1", "passed": False},
    ]
    groups.append({"task_id": "all wrong", "prompt": "p", "candidates": [{"code": "a", "passed": False}]})
    report = fit_head(model, groups, tmp_path / "rm")
    assert (report.num_groups, report.num_groups_used, report.num_programs) == (5, 4, 16)
    assert (report.num_invalid, report.num_duplicates, report.num_contradictory) == (1, 2, 1)
    assert report.held_out_accuracy is None


def test_a_value_head_and_an_adapter_become_plain_folders(tmp_path):
    save_random_checkpoint(tmp_path / "ace", "qwen2", "AceCodeRM", vocab_size=300)
    save_random_checkpoint(tmp_path / "base", "llama", "CausalLM", vocab_size=300, pad_token_id=None, eos_token_id=2)
    save_random_lora(tmp_path / "lora", tmp_path / "base", task_type="CAUSAL_LM")
    edit_json(tmp_path / "lora/adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    save_chat(tmp_path / "ace")
    save_chat(tmp_path / "base")
    pairs = [("p", "def f(): pass"), ("p", "")]
    for name in ("ace", "lora"):
        fit_head(tmp_path / name, make_groups()[:2], tmp_path / f"{name}-rm")
        engine = Engine.from_pretrained(tmp_path / f"{name}-rm")
        source = Engine.from_pretrained(tmp_path / name, head="none", dtype="float32")
        assert np.array_equal(engine.features(pairs), source.features(pairs))
    assert json.loads((tmp_path / "lora-rm/config.json").read_text())["pad_token_id"] == 2


def test_the_template_of_an_adapter_is_kept(tmp_path):
    """It may stand in a file that comes second, and its base's in the one that comes first."""
    save_random_checkpoint(tmp_path / "base", "llama", "CausalLM", vocab_size=300)
    save_chat(tmp_path / "base")
    save_random_lora(tmp_path / "lora", tmp_path / "base", task_type="CAUSAL_LM")
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    (tmp_path / "lora/tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    fit_head(tmp_path / "lora", make_groups()[:2], tmp_path / "rm", base_model=tmp_path / "base")
    assert load_chat(tmp_path / "rm").render(PROBE) == "[user]p[assistant]r"


def test_the_pad_token_is_settled_for_everyone(tmp_path):
    """With it transformers pads, so the tokenizer must know it; and it must not be what is pooled."""
    save_random_checkpoint(tmp_path / "lm", "llama", "CausalLM", vocab_size=300, pad_token_id=None, eos_token_id=257)
    save_chat(tmp_path / "lm")
    fit_head(tmp_path / "lm", make_groups()[:2], tmp_path / "rm")
    config = json.loads((tmp_path / "rm/config.json").read_text())
    assert (config["pad_token_id"], config["problem_type"]) == (257, "regression")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "rm")
    assert tokenizer(["a", "aa"], padding=True).input_ids[0][1] == 257
    template = tmp_path / "lm/chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>\n", "<|im_end|>"))
    with pytest.raises(InvalidInput, match="ends in the pad token, 257"):
        fit_head(tmp_path / "lm", make_groups()[:2], tmp_path / "rm2")


def test_a_program_that_is_too_long_is_named_or_truncated(model, tmp_path):
    groups = make_groups()[:2]
    groups[1]["candidates"][3]["code"] += "#" * 600
    with pytest.raises(InvalidInput, match=r"groups\[1\]: candidates\[3\] has \d+ tokens"):
        fit_head(model, groups, tmp_path / "rm")
    fit_head(model, groups, tmp_path / "rm", truncation="left")


def test_an_empty_folder_may_be_linked_to(model, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    fit_head(model, make_groups()[:2], tmp_path / "link")
    assert (tmp_path / "real/config.json").is_file()


@pytest.mark.parametrize(
    "groups, options, message",
    [
        ([], {}, "none of 0 groups has a correct and an incorrect program"),
        ([{"task_id": 1, "prompt": "p", "candidates": [{"code": "a"}]}], {}, r"candidates\[0\] has no passed"),
        ([], {"l2": 0.0}, "l2=0.0"),
        ([], {"l2": float("nan")}, "l2=nan"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, groups, options, message):
    with pytest.raises(InvalidInput, match=message):
        fit_head("absent", groups, tmp_path / "rm", **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(model, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="is there already"):
        fit_head(model, make_groups(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_features_that_are_not_finite_are_an_error(tmp_path):
    save_random_checkpoint(tmp_path / "lm", "qwen3", "CausalLM", vocab_size=300)
    save_chat(tmp_path / "lm")
    edit_tensors(
        tmp_path / "lm/model.safetensors", lambda tensors: tensors | {"model.norm.weight": torch.full((64,), torch.nan)}
    )
    with pytest.raises(WeightsError, match=r"groups\[0\]: candidates\[0\] has features that are not finite"):
        fit_head(tmp_path / "lm", make_groups(), tmp_path / "rm")
    assert not (tmp_path / "rm").exists()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mistral", {}),
        ("gemma3_text", {}),
        ("phi3", {"bos_token_id": 1}),
        ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    ],
)
def test_transformers_loads_the_folder_of_every_family(tmp_path, family, settings):
    save_random_checkpoint(tmp_path / "lm", family, "CausalLM", vocab_size=300, pad_token_id=299, **settings)
    save_chat(tmp_path / "lm")
    fit_head(tmp_path / "lm", make_groups()[:3], tmp_path / "rm")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm", dtype=torch.float32).eval()
    ids = [5, 6, 7, 70, 71, 9]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    ours = Engine.from_pretrained(tmp_path / "rm").score_tokens([ids])
    np.testing.assert_allclose(ours, expected, rtol=FLOAT32_SCORE_LIMIT)


@pytest.mark.parametrize("architecture", ["GRewardModel", "AtheneForSequenceClassification", "RewardModel"])
def test_a_new_head_replaces_any_other(tmp_path, architecture):
    save_random_checkpoint(tmp_path / "rm", "qwen3", architecture, vocab_size=300, pad_token_id=299)
    save_chat(tmp_path / "rm")
    report = fit_head(tmp_path / "rm", make_groups(), tmp_path / "new")
    assert report.training_accuracy > 0.95
    assert Engine.from_pretrained(tmp_path / "new").config.head == "sequence_classification"
