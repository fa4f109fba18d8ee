"""From a reward model to an int8 folder, and what is refused on the way."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from codescaler.checkpoint.load import open_checkpoint
from codescaler.engine import Engine
from codescaler.errors import (
    BackendUnavailable,
    CodescalerError,
    HostileFile,
    InvalidInput,
    MissingTensor,
    ShapeMismatch,
    UnsupportedModel,
)
from codescaler.model.projections import list_fused_linears, list_linear_names
from codescaler.ops import select_backend
from codescaler.quantize import sensitivity as module
from codescaler.quantize.int8 import quantize_tensors, save_quantized
from codescaler.quantize.sensitivity import choose_bits_within, choose_quantized, quantize
from codescaler.testing import edit_json, edit_tensors, save_chat, save_random_checkpoint, save_random_lora
from codescaler.train import fit, fit_head
from codescaler.types import Fp8Scheme, QuantScheme

LISTS = [[1, 2, 3, 4], [1, 2, 3, 9, 9], [7], list(range(100))]
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"


def save(folder, family="qwen3", architecture="SequenceClassification", **settings):
    save_random_checkpoint(folder, family, architecture, vocab_size=260, num_hidden_layers=2, **settings)
    save_chat(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save(tmp_path_factory.mktemp("plain"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory):
    """All but one fused linear layer in int8, two with activations of 16 bits, one of these with a Hadamard
    transform.
    """
    path = tmp_path_factory.mktemp("int8")
    kept, (down,), fine = list_fused_linears(2)[2], list_fused_linears(2)[3], list_fused_linears(2)[4]
    schemes = {name: QuantScheme(16 if name in {down, *fine} else 8, name in fine) for name in list_linear_names(2)}
    save_quantized(open_checkpoint(plain), {name: how for name, how in schemes.items() if name not in kept}, path)
    return path


def bits(model, **options):
    engine = Engine.from_pretrained(model, device="cpu", **options)
    return np.concatenate([engine.score_tokens(LISTS)[:, None], engine.features_tokens(LISTS)], axis=1)


def test_all_maps_and_the_rest_in_bfloat16(tmp_path):
    """The smallest folder: what it computes is the same as with the linear layers' int8 and an embedding of half the
    bits.
    """
    save(tmp_path / "plain", dtype=torch.float32)
    report = quantize(tmp_path / "plain", tmp_path / "int8", limit=math.inf, dtype="bfloat16")
    assert not report.choice.kept
    checkpoint, plain = open_checkpoint(tmp_path / "int8"), open_checkpoint(tmp_path / "plain")
    assert checkpoint.config.dtype == "bfloat16" and checkpoint.sources["head.weight"].dtype == "float32"
    assert torch.equal(checkpoint.get("embed_tokens.weight"), plain.get("embed_tokens.weight").bfloat16())
    assert torch.equal(checkpoint.get("norm.weight"), plain.get("norm.weight"))
    rounded = plain.get("embed_tokens.weight").bfloat16().float()
    edit_tensors(tmp_path / "plain/model.safetensors", lambda tensors: tensors | {"model.embed_tokens.weight": rounded})
    quantize(tmp_path / "plain", tmp_path / "same", limit=math.inf)
    assert np.array_equal(bits(tmp_path / "int8", dtype="float32"), bits(tmp_path / "same"))


def test_a_map_that_stays_has_the_dtype_too(tmp_path):
    save(tmp_path / "plain", dtype=torch.float32)
    report = quantize(tmp_path / "plain", tmp_path / "int8", limit=0.02, dtype="bfloat16")
    checkpoint = open_checkpoint(tmp_path / "int8")
    stored = {checkpoint.sources[f"{name}.weight"].dtype for names in report.choice.kept for name in names}
    assert stored == {"bfloat16"} and report.choice.linears


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": -1.0}, "limit -1.0; give a number"),
        ({"activation_bits": 4}, "activation_bits 4; give 8 or 16"),
        ({"dtype": "float16"}, "dtype 'float16'; give one of"),
        ({"quantization": "fp8", "activation_bits": 16}, "activation_bits 16 with fp8, which has 8"),
    ],
)
def test_a_setting_that_is_none_is_refused(plain, tmp_path, settings, message):
    with pytest.raises(InvalidInput, match=message):
        quantize(plain, tmp_path / "int8", **settings)
    assert not (tmp_path / "int8").exists()


@pytest.mark.parametrize(
    ("family", "architecture", "limit"),
    [
        ("qwen2", "SequenceClassification", 0.01),
        ("gemma2", "TokenClassification", 0.005),
        ("qwen2", "AceCodeRM", 0.01),
        ("qwen2", "Qwen2ForRewardModel", 0.05),
        ("mistral", "EurusRewardModel", 0.01),
    ],
)
def test_a_folder_has_the_bits_of_quantising_at_load(tmp_path, family, architecture, limit, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", limit)  # at which some linear layers stay
    save(tmp_path / "plain", family, architecture)
    report = quantize(tmp_path / "plain", tmp_path / "int8")
    assert report.choice.linears and report.choice.kept
    assert report.bytes_after < report.bytes_before
    expected = bits(tmp_path / "plain", quantization="int8")
    assert np.array_equal(bits(tmp_path / "int8"), expected)
    assert np.array_equal(bits(tmp_path / "int8", quantization="int8"), expected)
    assert not np.array_equal(bits(tmp_path / "plain"), expected)
    assert open_checkpoint(tmp_path / "int8").config.head == open_checkpoint(tmp_path / "plain").config.head


def test_an_adapter_is_merged_first(plain, tmp_path):
    save_random_lora(tmp_path / "lora", plain)
    quantize(tmp_path / "lora", tmp_path / "int8", base_model=plain)
    expected = bits(tmp_path / "lora", base_model=plain, quantization="int8")
    assert np.array_equal(bits(tmp_path / "int8"), expected)
    with pytest.raises(UnsupportedModel, match="cannot be merged into it"):
        open_checkpoint(tmp_path / "lora", base_model=tmp_path / "int8")


def test_the_engine_says_what_is_int8(plain, folder):
    engine = Engine.from_pretrained(folder)
    assert (engine.quantization, len(engine.config.quantized_linears)) == ("int8", 12)
    assert "12 of 14 linear layers int8 (8 with activations of 8 bits)" in repr(engine)
    assert Engine.from_pretrained(plain).quantization is None
    assert "int8" not in repr(Engine.from_pretrained(plain))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_backends_agree(folder, dtype):
    ours, truth = (bits(folder, dtype=dtype, backend=backend) for backend in ("cpu", "reference"))
    assert np.abs(ours - truth).max() < (1e-4 if dtype == "float32" else 0.1) * np.abs(truth).max()


def inputs_of(checkpoint, choice):
    return [(name, checkpoint.sources[f"{name}.weight"].shape[1]) for name in choice.linears]


def test_the_rule_keeps_what_moves_scores_and_measures_the_same_each_time(plain):
    checkpoint, backend = open_checkpoint(plain), select_backend("cpu", "cpu")
    first, second = choose_quantized(checkpoint, backend), choose_quantized(checkpoint, backend)
    assert first == second
    assert set(first.changes) == set(list_fused_linears(2))
    assert first.change <= module.LIMIT
    left = {fused: first.linears[fused[0]].bits for fused in first.changes if fused[0] in first.linears}
    assert first.change == pytest.approx(sum(first.changes[fused][bits] ** 2 for fused, bits in left.items()) ** 0.5)
    assert all(0 < change[16] < change[8] for change in first.changes.values())
    assert all(first.linears[name].bits == bits for fused, bits in left.items() for name in fused)
    assert all(first.linears[name].has_hadamard == (inputs % 64 == 0) for name, inputs in inputs_of(checkpoint, first))


def test_a_larger_limit_leaves_more_bits_out(plain):
    checkpoint, backend = open_checkpoint(plain), select_backend("cpu", "cpu")
    counts = [
        (choice.count(8), choice.count(16), len(choice.kept))
        for choice in (choose_quantized(checkpoint, backend, limit, 8) for limit in (0.0, 0.01, 0.03, math.inf))
    ]
    assert counts[0] == (0, 0, 8) and counts[-1] == (8, 0, 0)
    assert all(sum(count) == 8 for count in counts)
    assert [count[0] for count in counts] == sorted(count[0] for count in counts)
    assert [count[2] for count in counts] == sorted((count[2] for count in counts), reverse=True)
    assert any(count[1] for count in counts)
    assert choose_quantized(checkpoint, backend, math.inf, 16).count(16) == 8
    bits = 8 if backend.has_bf16_unit else 16  # by default what is fastest
    assert choose_quantized(checkpoint, backend, math.inf).count(bits) == 8


def test_a_map_moves_where_that_takes_most_for_its_size():
    changes = {("a",): {8: 3.0, 16: 1.0}, ("b",): {8: 2.0, 16: 2.5}, ("c",): {8: 1.0, 16: 0.5}}
    sizes = dict.fromkeys(changes, 10)
    assert choose_bits_within(changes, sizes, math.inf, 8) == dict.fromkeys(changes, 8)
    assert choose_bits_within(changes, sizes, 2.5, 8) == {("a",): 16, ("b",): 8, ("c",): 8}
    # not to 16 bits, which would take nothing
    assert choose_bits_within(changes, sizes, 2.0, 8) == {("a",): 16, ("c",): 8}
    assert choose_bits_within(changes, sizes, 1.2, 8) == {("c",): 8}
    assert choose_bits_within(changes, {**sizes, ("a",): 1000}, 3.2, 8) == {("a",): 8, ("c",): 8}
    assert choose_bits_within(changes, sizes, 2.0, 16) == {("a",): 16, ("c",): 16}
    assert choose_bits_within(changes, sizes, 0.0, 8) == {}


def test_measured_change_is_the_change(plain, monkeypatch):
    """The sum of the first-order changes is what scores do when all linear layers are int8."""
    monkeypatch.setattr(module, "LIMIT", math.inf)
    checkpoint, backend = open_checkpoint(plain), select_backend("cpu", "cpu")
    predicted = choose_quantized(checkpoint, backend, math.inf).change
    lists = list(module.list_programs(checkpoint))
    exact, rounded = (
        [Engine.from_pretrained(plain, dtype="float32", quantization=q).score_tokens(ids) for ids in lists]
        for q in (None, "int8")
    )
    centred = [[s - s.mean() for s in scores] for scores in (exact, rounded)]
    seen = np.sqrt(np.square(np.subtract(*centred)).sum() / np.square(centred[0]).sum())
    assert 0.4 * predicted < seen < 2.5 * predicted


def test_a_weight_that_is_not_finite_is_refused(tmp_path):
    save(tmp_path)
    edit_tensors(tmp_path / "model.safetensors", lambda t: t | {f"{Q}.weight": t[f"{Q}.weight"] * torch.inf})
    with pytest.raises(CodescalerError, match="not finite"):
        choose_quantized(open_checkpoint(tmp_path), select_backend("cpu", "cpu"))


def replace_tensor(name, change):
    return lambda tensors: tensors | {name: change(tensors[name])}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (
            replace_tensor(f"{Q}.weight", lambda w: w.bfloat16()),
            ShapeMismatch,
            "as bfloat16; convert it to int8",
        ),
        (replace_tensor(f"{Q}.weight", lambda w: w[1:].clone()), ShapeMismatch, "has shape"),
        (replace_tensor(f"{Q}.weight_scale", lambda s: s[:, 0].clone()), ShapeMismatch, "has shape"),
        (replace_tensor(f"{Q}.weight_scale", lambda s: s.to(torch.int8)), ShapeMismatch, "stored as int8"),
        (replace_tensor("model.norm.weight", lambda w: w.to(torch.int8)), ShapeMismatch, "stored as int8"),
        (replace_tensor(f"{Q}.weight_scale", lambda s: s * torch.nan), HostileFile, "no positive number"),
        (replace_tensor(f"{Q}.weight_scale", lambda s: -s), HostileFile, "no positive number"),
        (replace_tensor(f"{Q}.weight_scale", lambda s: s * 0), HostileFile, "no positive number"),
        (lambda t: {n: v for n, v in t.items() if n != f"{Q}.weight_scale"}, MissingTensor, "weight_scale"),
    ],
)
def test_a_tampered_file_is_refused(copy, change, error, says):
    edit_tensors(copy / "model.safetensors", change)
    with pytest.raises(error, match=says):
        Engine.from_pretrained(copy)


def test_a_tampered_configuration_is_refused(copy):
    scheme = json.loads((copy / "config.json").read_text())["quantization_config"]
    edit_json(copy / "config.json", quantization_config=None)
    with pytest.raises(CodescalerError, match="no role"):
        Engine.from_pretrained(copy)
    edit_json(copy / "config.json", quantization_config={**scheme, "ignore": [*scheme["ignore"], DOWN]})
    with pytest.raises(CodescalerError, match=r"scale|int8"):
        Engine.from_pretrained(copy)
    edit_json(copy / "config.json", quantization_config={**scheme, "ignore": ["lm_head", "score"]})
    with pytest.raises(MissingTensor, match="weight_scale"):
        Engine.from_pretrained(copy)
    for place in scheme["transform_config"]["config_groups"]["rotation"]["apply"]:
        place["ignore"] = scheme["ignore"]  # the 112 inputs of down are not
    edit_json(copy / "config.json", quantization_config=scheme)
    with pytest.raises(UnsupportedModel, match="112 inputs, no multiple of the 64"):
        Engine.from_pretrained(copy)


def test_what_cannot_be_done_says_so(plain, folder, tmp_path):
    groups = [
        {"task_id": "1", "prompt": "p", "candidates": [{"code": "a", "passed": True}, {"code": "b", "passed": False}]}
    ]
    with pytest.raises(UnsupportedModel, match="was before, and run `codescaler quantize`"):
        fit(folder, groups, tmp_path / "run")
    with pytest.raises(UnsupportedModel, match="was before, and run `codescaler quantize`"):
        fit_head(folder, groups, tmp_path / "head")
    assert not (tmp_path / "head").exists()
    with pytest.raises(InvalidInput, match="int8 already"):
        quantize(folder, tmp_path / "twice")
    with pytest.raises(InvalidInput, match="is there already"):
        quantize(plain, folder)
    save(tmp_path / "phi3", "phi3")
    with pytest.raises(UnsupportedModel, match=r"fused projections.*quantization='int8'"):
        quantize(tmp_path / "phi3", tmp_path / "fused")
    assert Engine.from_pretrained(tmp_path / "phi3", quantization="int8").quantization == "int8"
    shutil.rmtree(tmp_path / "phi3")
    with pytest.raises(InvalidInput, match="is int8, and quantization='fp8' asks for another format"):
        Engine.from_pretrained(folder, quantization="fp8", backend="reference")
    assert np.array_equal(bits(folder, quantization="int8"), bits(folder))
    with pytest.raises(InvalidInput, match="with a reward head"):
        Engine.from_pretrained(plain, head="none", quantization="int8")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "run") == []


def test_an_fp8_folder_has_the_bits_of_quantising_at_load(tmp_path):
    save(tmp_path / "plain")
    report = quantize(tmp_path / "plain", tmp_path / "fp8", limit=math.inf, quantization="fp8")
    checkpoint = open_checkpoint(tmp_path / "fp8")
    assert set(checkpoint.config.quantized_linears.values()) == {Fp8Scheme()} and not report.choice.kept
    assert checkpoint.sources["layers.0.mlp.down_proj.weight"].dtype == "float8_e4m3fn"
    assert checkpoint.sources["head.weight"].dtype == checkpoint.sources["norm.weight"].dtype == "float32"
    loaded = bits(tmp_path / "fp8", backend="reference", dtype="float32")
    get = quantize_tensors(open_checkpoint(tmp_path / "plain").get, checkpoint.config.quantized_linears)
    for name in ("weight", "weight_scale"):
        stored, made = (read(f"layers.0.mlp.down_proj.{name}").float() for read in (checkpoint.get, get))
        assert torch.equal(stored, made)
    exact = bits(tmp_path / "plain", backend="reference", dtype="float32")
    assert 0 < np.abs(loaded - exact).max() < 0.2 * np.abs(exact).max()


def test_the_rule_keeps_what_fp8_would_move(tmp_path):
    save(tmp_path / "plain")
    choice = choose_quantized(open_checkpoint(tmp_path / "plain"), select_backend("cpu", "cpu"), 1e-3, None, "fp8")
    assert choice.kept and choice.change <= 1e-3
    with pytest.raises(InvalidInput, match="quantization 'int4'; give 'int8' or 'fp8'"):
        quantize(tmp_path / "plain", tmp_path / "int4", quantization="int4")
    quantize(tmp_path / "plain", tmp_path / "fp8", limit=math.inf, quantization="fp8")
    with pytest.raises(BackendUnavailable, match="no fp8 linear layers"):
        bits(tmp_path / "fp8", backend="cpu")
