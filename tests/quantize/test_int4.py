"""Weights of 4 bits: rounding, packing, and folders that are expanded when they are loaded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from codescaler.checkpoint.load import open_checkpoint
from codescaler.checkpoint.packed import pack_integers, scale_integers, unpack_integers
from codescaler.engine import Engine
from codescaler.errors import HostileFile, InvalidInput, MissingTensor, ShapeMismatch, UnsupportedModel, WeightsError
from codescaler.model.projections import list_linear_names
from codescaler.quantize.int4 import quantize_to_int4
from codescaler.quantize.int8 import quantize_tensors
from codescaler.quantize.rounding import choose_scales, round_by_moments, shrink_moments
from codescaler.quantize.sensitivity import quantize
from codescaler.testing import edit_json, edit_tensors, save_chat, save_random_checkpoint
from codescaler.train import fit_head

LISTS = [[1, 2, 3, 4], [1, 2, 3, 9, 9], [7], list(range(100))]
Q = "model.layers.0.self_attn.q_proj"


def save(folder, family="qwen3", **settings):
    sizes = {
        "vocab_size": 300,
        "pad_token_id": 299,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 4096,
    }
    save_random_checkpoint(folder, family, "SequenceClassification", **sizes | settings)
    save_chat(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save(tmp_path_factory.mktemp("plain"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("int4") / "model"
    quantize_to_int4(plain, path, group_size=32)
    return path


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_word_holds_the_first_integer_in_its_lowest_bits(bits, random):
    """By the definition of the format, one integer after the other."""
    most = 2 ** (bits - 1)
    integers = torch.randint(-most, most, (3, 64), generator=random).to(torch.int8)
    packed, count = pack_integers(integers, bits), 32 // bits
    for row, words in zip(integers.tolist(), packed.tolist(), strict=True):
        for index, word in enumerate(words):
            expected = sum((q + most) << (bits * place) for place, q in enumerate(row[index * count :][:count]))
            assert word % 2**32 == expected
    assert torch.equal(unpack_integers(packed, bits, 64), integers)


def test_a_scale_holds_for_its_group_of_inputs():
    weight = scale_integers(torch.tensor([[1, -2, 3, 4]], dtype=torch.int8), torch.tensor([[0.5, 10.0]]))
    assert weight.tolist() == [[0.5, -1.0, 30.0, 40.0]]


def test_rounding_moves_products_less_than_to_the_nearest(random):
    """Inputs that move together: what one loses, others make good."""
    x = torch.randn(500, 16, generator=random) @ torch.randn(16, 96, generator=random)
    x += 0.3 * torch.randn(500, 96, generator=random)
    weight, moments = torch.randn(40, 96, generator=random), x.T @ x / len(x)
    scale = choose_scales(weight, moments, 4, 32)

    def measure_loss(moments):
        integers = round_by_moments(weight, scale, moments, 4)
        assert integers.dtype == torch.int8 and integers.min() >= -8 and integers.max() <= 7
        return float((x @ (scale_integers(integers, scale) - weight).T).square().mean())

    assert measure_loss(moments) < 0.4 * measure_loss(None)
    # Inputs that do not move together are rounded to the nearest.
    alone = torch.diag(moments.diagonal())
    assert torch.equal(round_by_moments(weight, scale, alone, 4), round_by_moments(weight, scale, None, 4))


@pytest.mark.parametrize("count", [8, 50, 500])
def test_few_inputs_do_no_harm(random, count):
    """Beside rounding to the nearest, on inputs that were not seen."""
    mixing, weight = torch.randn(16, 128, generator=random), torch.randn(40, 128, generator=random)
    x = torch.randn(2000 + count, 16, generator=random) @ mixing + torch.randn(2000 + count, 128, generator=random)
    fresh, moments = x[count:], shrink_moments(x[:count].T @ x[:count] / count, count)
    scale = choose_scales(weight, None, 4, 32)

    def measure_loss(moments):
        lost = scale_integers(round_by_moments(weight, scale, moments, 4), scale) - weight
        return float((fresh @ lost.T).square().mean())

    assert measure_loss(moments) < 1.02 * measure_loss(None)


def test_scales_lose_less_than_those_that_reach_the_largest_weight(random):
    weight = torch.randn(40, 128, generator=random) ** 3
    reach = weight.unflatten(1, (-1, 32)).abs().amax(dim=2) / 7.5

    def measure_losses(scale):
        lost = scale_integers(round_by_moments(weight, scale, None, 4), scale) - weight
        return lost.unflatten(1, (-1, 32)).square().sum(dim=2)

    losses, most = measure_losses(choose_scales(weight, None, 4, 32)), measure_losses(reach)
    assert (losses <= 1.001 * most).all() and losses.sum() < 0.95 * most.sum()
    assert choose_scales(torch.zeros(2, 32), None, 4, 32).gt(0).all(), "a weight of zeros has a scale too"


def test_a_folder_scores_as_the_weights_that_it_stands_for(plain, folder, tmp_path):
    """The same bits as a folder of the expanded weights, and the change that was reported."""
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.packed_bits == {"Linear": 4, "Embedding": 8} and not checkpoint.config.quantized_linears
    weights = {
        f"model.{name}.weight": checkpoint.get(f"{name}.weight") for name in (*list_linear_names(2), "embed_tokens")
    }
    expanded = Path(shutil.copytree(plain, tmp_path / "expanded"))
    edit_tensors(expanded / "model.safetensors", lambda tensors: tensors | weights)
    scores = [
        Engine.from_pretrained(model, device="cpu", dtype="float32").score_tokens(LISTS) for model in (folder, expanded)
    ]
    assert np.array_equal(*scores)
    assert not np.array_equal(
        scores[0], Engine.from_pretrained(plain, device="cpu", dtype="float32").score_tokens(LISTS)
    )
    size = sum(weight.numel() for name, weight in weights.items() if "embed" not in name)
    assert (folder / "model.safetensors").stat().st_size < 0.75 * size + 40_000


def test_what_is_reported_is_what_changed(plain, tmp_path):
    report = quantize_to_int4(plain, tmp_path / "model", group_size=64)
    assert report.group_size == 64 and report.num_measured > 3 and report.num_tokens > 10_000
    assert 0.0 < report.change < 1.0 and report.bytes_after < report.bytes_before
    finer = quantize_to_int4(plain, tmp_path / "finer", group_size=32)
    assert finer.bytes_after > report.bytes_after


def test_scores_that_are_all_the_same_have_no_change(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "plain")
    edit_tensors(
        tmp_path / "plain/model.safetensors", lambda held: {n: t * ("score" not in n) for n, t in held.items()}
    )
    with pytest.raises(WeightsError, match="not finite, or all the same"):
        quantize_to_int4(tmp_path / "plain", tmp_path / "int4")
    assert not (tmp_path / "int4").exists()


def write_groups(path, num_programs):
    """Six problems of short programs, half of them right."""
    candidates = [{"code": f"def f(x):\n    return x + {n}\n", "passed": n > 1} for n in range(num_programs)]
    groups = [{"task_id": name, "prompt": f"Write f, {name}.", "candidates": candidates} for name in "abcdef"]
    path.write_text("".join(json.dumps(group) + "\n" for group in groups))
    return path


def test_programs_of_the_user_are_those_that_are_measured_on(plain, folder, tmp_path):
    data = write_groups(tmp_path / "groups.jsonl", 4)
    report = quantize_to_int4(plain, tmp_path / "model", group_size=32, sensitivity_data=data)
    assert report.num_measured == 2
    assert (tmp_path / "model/model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()
    with pytest.raises(InvalidInput, match=r"few\.jsonl has no problem with 4 different programs"):
        quantize_to_int4(plain, tmp_path / "other", sensitivity_data=write_groups(tmp_path / "few.jsonl", 3))


def test_a_packed_model_is_trained_as_what_it_stands_for(folder, tmp_path):
    fit_head(folder, write_groups(tmp_path / "groups.jsonl", 4), tmp_path / "head")
    trained, name = open_checkpoint(tmp_path / "head"), "layers.0.mlp.up_proj.weight"
    assert not trained.config.packed_bits
    assert torch.equal(trained.get(name), open_checkpoint(folder).get(name))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [({"group_size": 48}, InvalidInput, "group_size 48; give one of"), ({"group_size": 128}, InvalidInput, "divide")],
)
def test_a_group_size_that_is_none_is_refused(plain, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        quantize_to_int4(plain, tmp_path / "model", **settings)
    assert not (tmp_path / "model").exists()


def test_what_is_quantised_already_is_refused(folder, tmp_path):
    with pytest.raises(InvalidInput, match="quantised already"):
        quantize_to_int4(folder, tmp_path / "again", group_size=32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({f"{Q}.weight_scale": None}, MissingTensor, "no weight_scale or no weight_shape"),
        ({f"{Q}.weight_shape": None}, MissingTensor, "no weight_scale or no weight_shape"),
        ({f"{Q}.weight_packed": None}, WeightsError, "no role|lacks"),
        ({f"{Q}.weight_packed": torch.zeros(128, 8)}, ShapeMismatch, "int32 .* is wanted"),
        ({f"{Q}.weight_packed": torch.zeros(128, 4, dtype=torch.int32)}, ShapeMismatch, "config.json asks for"),
        ({f"{Q}.weight_scale": torch.ones(128, 3)}, ShapeMismatch, "does not divide"),
        ({f"{Q}.weight_scale": torch.ones(128, 2, dtype=torch.int32)}, ShapeMismatch, "stored as int32"),
        ({f"{Q}.weight": torch.zeros(128, 64)}, HostileFile, "mean the same"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(copy, change, error, message):
    edit_tensors(
        copy / "model.safetensors",
        lambda tensors: {name: t for name, t in (tensors | change).items() if t is not None},
    )
    with pytest.raises(error, match=message):
        open_checkpoint(copy)


def test_a_scale_that_is_no_number_is_refused(copy):
    edit_tensors(
        copy / "model.safetensors", lambda tensors: tensors | {f"{Q}.weight_scale": torch.full((128, 2), torch.nan)}
    )
    with pytest.raises(HostileFile, match="no positive number"):
        Engine.from_pretrained(copy, device="cpu")


def test_the_folder_of_another_tool_loads(folder, plain, copy):
    """As llm-compressor writes W4A16: linear layers alone, one left out, keys that are null."""
    left_out, scheme = (
        open_checkpoint(plain).get("layers.1.mlp.down_proj.weight"),
        json.loads((copy / "config.json").read_text())["quantization_config"],
    )
    linear = scheme["config_groups"]["group_1"]
    linear["weights"] |= {"actorder": "weight", "block_structure": None, "observer": "minmax", "observer_kwargs": {}}
    groups = {"group_0": linear | {"format": "pack-quantized", "output_activations": None}}
    ignored = ["lm_head", "model.layers.1.mlp.down_proj"]
    more = {
        "config_groups": groups,
        "ignore": ignored,
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "version": "0.12",
    }
    edit_json(copy / "config.json", quantization_config=scheme | more | {"global_compression_ratio": None})
    embedding, expected = open_checkpoint(plain).get("embed_tokens.weight"), open_checkpoint(folder)

    def change(tensors):
        kept = {
            name: t for name, t in tensors.items() if "embed_tokens" not in name and "layers.1.mlp.down" not in name
        }
        return kept | {"model.embed_tokens.weight": embedding, "model.layers.1.mlp.down_proj.weight": left_out}

    edit_tensors(copy / "model.safetensors", change)
    checkpoint, name = open_checkpoint(copy), "layers.0.mlp.down_proj.weight"
    assert checkpoint.config.packed_bits == {"Linear": 4} and checkpoint.config.dtype == "bfloat16"
    assert torch.equal(checkpoint.get(name), expected.get(name)) and checkpoint.get(name).dtype == torch.bfloat16
    assert torch.equal(checkpoint.get("layers.1.mlp.down_proj.weight"), left_out)
    assert np.isfinite(Engine.from_pretrained(copy, device="cpu").score_tokens(LISTS)).all()


def test_int8_of_a_packed_folder_is_int8_of_what_it_stands_for(folder, tmp_path):
    quantize(folder, tmp_path / "int8", limit=float("inf"))
    checkpoint, expected = open_checkpoint(tmp_path / "int8"), open_checkpoint(folder)
    assert not checkpoint.config.packed_bits and len(checkpoint.config.quantized_linears) == 14
    get = quantize_tensors(expected.get, checkpoint.config.quantized_linears)
    for name in checkpoint.config.quantized_linears:
        for part in ("weight", "weight_scale"):
            assert torch.equal(checkpoint.get(f"{name}.{part}"), get(f"{name}.{part}"))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("config_groups/group_1/weights/num_bits", 3, "num_bits is 3"),
        ("config_groups/group_1/weights/num_bits", 4.0, "num_bits is 4.0"),
        ("config_groups/group_1/weights/num_bits", None, "num_bits is None"),
        ("config_groups/group_1/weights/strategy", None, "strategy is None"),
        ("config_groups/group_1/format", "nvfp4-pack-quantized", "format is 'nvfp4-pack-quantized'"),
        ("config_groups/group_1/weights/symmetric", False, "symmetric is False"),
        ("config_groups/group_1/weights/type", "float", "type is 'float'"),
        ("config_groups/group_1/weights/strategy", "tensor", "strategy is 'tensor'"),
        ("config_groups/group_1/weights/actorder", "group", "actorder is 'group'"),
        ("config_groups/group_1/input_activations", {"num_bits": 8}, "input_activations is"),
        ("config_groups/group_1/targets", ["re:.*"], "targets is"),
        ("config_groups/group_1/targets", ["Embedding"], "targets is"),
        ("transform_config", {"config_groups": {}}, "transform_config is there"),
    ],
)
def test_other_ways_to_pack_are_refused(copy, path, value, message):
    scheme = json.loads((copy / "config.json").read_text())["quantization_config"]
    *parents, last = path.split("/")
    part = scheme
    for name in parents:
        part = part[name]
    part[last] = value
    edit_json(copy / "config.json", quantization_config=scheme)
    with pytest.raises(UnsupportedModel, match=message):
        open_checkpoint(copy)
