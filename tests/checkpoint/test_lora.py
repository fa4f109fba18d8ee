"""LoRA adapters that PEFT saved, merged here and by PEFT."""

import pytest
import torch

from codescaler.checkpoint.load import open_checkpoint
from codescaler.errors import (
    HostileFile,
    MissingTensor,
    ShapeMismatch,
    UnsupportedModel,
    WeightsError,
)
from codescaler.testing import edit_json, edit_tensors, save_random_checkpoint, save_random_lora

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Q = "base_model.model.model.layers.0.self_attn.q_proj."
SCORE = "base_model.model.score."


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    save_random_checkpoint(root / "causal", "qwen3", "CausalLM")
    save_random_checkpoint(root / "score", "qwen3")
    save_random_checkpoint(root / "bfloat16", "qwen2", dtype=torch.bfloat16)
    return root


@pytest.fixture
def adapter(bases, tmp_path):
    """A plain adapter on a causal LM, for tests to damage."""
    save_random_lora(tmp_path / "adapter", bases / "causal")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        ("score", {"r": 4, "lora_alpha": 6}),
        ("score", {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": EVERY}),
        ("causal", {"r": 8, "lora_alpha": 32}),
        ("causal", {"task_type": "TOKEN_CLS"}),
        ("score", {"task_type": "TOKEN_CLS", "target_modules": EVERY}),
        ("bfloat16", {"target_modules": EVERY}),
        (
            "score",
            # The first match counts, and PEFT sorts the patterns when it saves: so they are written sorted.
            {
                "target_modules": EVERY,
                "rank_pattern": {r"0\.self_attn\.[qk]_proj": 2, r"[uq]\w*_proj": 5, "k_proj": 3},
                "alpha_pattern": {r".*\.mlp\.\w+": 7, r"^model\.layers\.2\..*": 1, "up_proj|proj": 100},
            },
        ),
        ("score", {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"down_proj": 5}, "use_rslora": True}),
    ],
)
def test_merge_is_pefts(bases, tmp_path, base, settings):
    model = save_random_lora(tmp_path, bases / base, **settings)
    checkpoint, plain = open_checkpoint(tmp_path), open_checkpoint(bases / base, head="none")
    changes = {
        name.removeprefix("base_model.model.model."): layer
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and len(layer.lora_A)
    }
    # The sum of absolute products that a merged element is made of bounds the error of any order of summing.
    factors = {
        name: (
            layer.lora_B["default"].weight.float(),
            layer.lora_A["default"].weight.float(),
            layer.scaling["default"],
        )
        for name, layer in changes.items()
    }
    merged = model.merge_and_unload().state_dict()
    expected = {name.removeprefix("model.").replace("score.", "head."): tensor for name, tensor in merged.items()}
    assert checkpoint.sources.keys() == expected.keys()
    assert changes
    for name, tensor in expected.items():
        ours = checkpoint.read_tensor(name)
        b, a, scale = factors.get(name.removesuffix(".weight"), (None, None, 0.0))
        if b is None:
            assert ours.dtype == tensor.dtype
            assert torch.equal(ours, tensor), name
            continue
        assert ours.dtype == torch.float32
        original = plain.read_tensor(name).float()
        terms = original.abs() + scale * (b.abs() @ a.abs())
        bound = torch.finfo(torch.float32).eps * (a.shape[0] + 2) * terms
        bound = bound + torch.finfo(tensor.dtype).eps * tensor.float().abs()
        assert ((ours.float() - tensor.float()).abs() <= bound).all(), name
        assert not torch.equal(ours, plain.read_tensor(name)), name


@pytest.mark.parametrize(
    ("task", "head"),
    [("SEQ_CLS", "sequence_classification"), ("TOKEN_CLS", "token_classification")],
)
def test_task_decides_the_head(bases, tmp_path, task, head):
    save_random_lora(tmp_path, bases / "causal", task_type=task)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.head == head
    assert (checkpoint.folder, checkpoint.base_folder) == (tmp_path, bases / "causal")


def test_adapter_of_a_causal_lm_has_no_head(bases, tmp_path):
    save_random_lora(tmp_path, bases / "causal", task_type="CAUSAL_LM")
    with pytest.raises(MissingTensor, match="head='none'"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path, head="none").config.head == "none"
    # On a reward model as the base, the base's head scores.
    base = open_checkpoint(bases / "score")
    ours = open_checkpoint(tmp_path, base_model=bases / "score")
    assert torch.equal(ours.read_tensor("head.weight"), base.read_tensor("head.weight"))


def test_missing_head(adapter):
    edit_tensors(adapter / TENSORS, lambda ts: {n: t for n, t in ts.items() if "score" not in n})
    with pytest.raises(MissingTensor, match=r"score\.weight"):
        open_checkpoint(adapter)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("score.weight", "score.modules_to_save.weight"),
        ("score.weight", "score.modules_to_save.default.weight"),
        (".weight", ".default.weight"),
    ],
)
def test_older_names(adapter, old, new):
    expected = open_checkpoint(adapter)
    head, query = expected.read_tensor("head.weight").clone(), expected.read_tensor("layers.0.self_attn.q_proj.weight")
    rename = {SCORE + "weight": SCORE + "weight"} if old == ".weight" else {}
    edit_tensors(adapter / TENSORS, lambda ts: {rename.get(n, n.replace(old, new)): t for n, t in ts.items()})
    ours = open_checkpoint(adapter)
    assert torch.equal(ours.read_tensor("head.weight"), head)
    assert torch.equal(ours.read_tensor("layers.0.self_attn.q_proj.weight"), query)


def test_fan_in_fan_out_is_reset_as_in_peft(adapter):
    name = "layers.0.mlp.down_proj.weight"
    expected = open_checkpoint(adapter).read_tensor(name)
    edit_json(adapter / CONFIG, fan_in_fan_out=True)
    assert torch.equal(open_checkpoint(adapter).read_tensor(name), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"layer_replication": [[0, 2]]},
        {"alora_invocation_tokens": [1]},
        {"trainable_token_indices": [1]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"rank_pattern": {"(a+)+": 8}},
        {"rank_pattern": {".*.*.*.*q_proj": 8}},
        {"rank_pattern": {"a?" * 28: 8}},
        {"rank_pattern": {"(a|a)" * 9: 8}},
    ],
)
def test_variants_are_refused(adapter, settings):
    edit_json(adapter / CONFIG, **settings)
    with pytest.raises(UnsupportedModel, match=next(iter(settings))):
        open_checkpoint(adapter)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (Q + "lora_magnitude_vector.weight", UnsupportedModel, "LoRA variant"),
        (Q + "lora_B.bias", UnsupportedModel, "LoRA variant"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", UnsupportedModel, "LoRA variant"),
        (Q + "bias", WeightsError, "no role"),
        ("model.norm.weight", WeightsError, "no role"),
        ("base_model.model.prompt.weight", WeightsError, "no role"),
        (SCORE + "modules_to_save.weight", HostileFile, "mean the same tensor"),
        (Q + "lora_A.default.weight", HostileFile, "mean the same tensor"),
        ("base_model.model.model.layers.1.mlp.up_proj.lora_A.weight", MissingTensor, "no partner"),
    ],
)
def test_adapter_tensors_without_a_role(adapter, name, error, message):
    edit_tensors(adapter / TENSORS, lambda ts: ts | {name: torch.ones(8, 64)})
    with pytest.raises(error, match=message):
        open_checkpoint(adapter)


@pytest.mark.parametrize(
    "module", ["lm_head", "model.embed_tokens", "model.layers.9.self_attn.q_proj", "score", "model.norm"]
)
def test_lora_on_other_modules(adapter, module):
    pair = {f"base_model.model.{module}.lora_{x}.weight": torch.ones(8, 8) for x in "AB"}
    edit_tensors(adapter / TENSORS, lambda ts: ts | pair)
    with pytest.raises(UnsupportedModel, match="only attention and MLP projections"):
        open_checkpoint(adapter)


def test_lora_under_two_names_of_one_weight(adapter):
    bare = "base_model.model.layers.0.self_attn.q_proj."
    pair = {bare + "lora_A.weight": torch.ones(8, 64), bare + "lora_B.weight": torch.ones(128, 8)}
    edit_tensors(adapter / TENSORS, lambda ts: ts | pair)
    with pytest.raises(HostileFile, match="a second time"):
        open_checkpoint(adapter)


@pytest.mark.parametrize("tensor", [torch.ones(7, 64), torch.ones(8), torch.ones(8, 64).int()])
def test_factor_of_another_rank_or_dtype(adapter, tensor):
    edit_tensors(adapter / TENSORS, lambda ts: ts | {Q + "lora_A.weight": tensor})
    with pytest.raises(ShapeMismatch, match="rank 8"):
        open_checkpoint(adapter)


def test_base_of_another_shape(adapter, tmp_path):
    save_random_checkpoint(tmp_path / "wide", "qwen3", "CausalLM", intermediate_size=96)
    with pytest.raises(ShapeMismatch, match="give the base model of the adapter"):
        open_checkpoint(adapter, base_model=tmp_path / "wide")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r is 0"),
        ({"r": "8"}, "r is '8'"),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"lora_alpha": 1e299}, r"lora_alpha is 1e\+299; set it to a number from 1e-30 to 1e\+30"),
        ({"use_rslora": 1}, "use_rslora"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"rank_pattern": {"q_(proj": 8}}, "no regular expression"),
        ({"rank_pattern": {"q{99999999999}": 8}}, "no regular expression"),
        ({"rank_pattern": {"q_proj": 0}}, "q_proj is 0"),
        ({"alpha_pattern": {"q_proj": True}}, "q_proj is True"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": "/no/such/folder"}, "base model of the adapter.*no such folder"),
        ({"base_model_name_or_path": "/" + "a" * 300}, "base model of the adapter.*no such folder"),
    ],
)
def test_settings_that_make_no_sense(adapter, settings, message):
    edit_json(adapter / CONFIG, **settings)
    with pytest.raises(WeightsError, match=message):
        open_checkpoint(adapter)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ({}, ("owner/base", "v1", False)),
        ({"revision": "v2", "local_files_only": True}, ("owner/base", "v2", True)),
        # The adapter's revision belongs to the base it names, not to one given instead.
        ({"base_model": "owner/other"}, ("owner/other", None, False)),
    ],
)
def test_base_on_the_hub(adapter, bases, monkeypatch, arguments, asked):
    calls = []

    def download(repo_id, *, revision, local_files_only, **patterns):
        calls.append((repo_id, revision, local_files_only))
        return str(bases / "causal")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    edit_json(adapter / CONFIG, base_model_name_or_path="owner/base", revision="v1")
    assert open_checkpoint(adapter, **arguments).base_folder == bases / "causal"
    assert calls == [asked]


def test_base_that_is_an_adapter(adapter):
    edit_json(adapter / CONFIG, base_model_name_or_path=str(adapter))
    with pytest.raises(UnsupportedModel, match="an adapter itself"):
        open_checkpoint(adapter)


def test_folder_of_both_an_adapter_and_a_model(adapter):
    (adapter / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="move one of the two models away"):
        open_checkpoint(adapter)


def test_pickled_adapter(adapter):
    (adapter / TENSORS).rename(adapter / "adapter_model.bin")
    with pytest.raises(MissingTensor, match=r"adapter_model\.bin, a pickle"):
        open_checkpoint(adapter)
