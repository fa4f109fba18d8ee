import pytest
import torch

from codescaler.checkpoint.compressed_tensors import make_quantization_config, read_quantized_linears
from codescaler.errors import UnsupportedModel, WeightsError
from codescaler.io.json import Fields
from codescaler.model.projections import list_linear_names
from codescaler.ops.reference import apply_hadamard
from codescaler.quantize.int8 import quantize_tensors, quantize_weight
from codescaler.types import QuantScheme

ALL = list_linear_names(2)


def read(scheme):
    return read_quantized_linears(Fields({"quantization_config": scheme}, "config.json"), 2)


def changed(path, value):
    """The scheme that we write, with one setting changed."""
    scheme = make_quantization_config(dict.fromkeys(ALL, QuantScheme(8, has_hadamard=True)), 2)
    *parents, last = path.split("/")
    part = scheme
    for name in parents:
        part[name] = dict(part[name])
        part = part[name]
    part[last] = value
    return scheme


def test_a_weight_is_its_nearest_int8_multiple(random):
    weight = torch.randn(40, 70, generator=random)
    weight[3], weight[4], weight[5, 7] = 0.0, 1.5, 1e6
    integers, scale = quantize_weight(weight.bfloat16())
    assert (integers.dtype, scale.dtype, scale.shape) == (torch.int8, torch.float32, (40, 1))
    assert integers.abs().amax(dim=1)[[0, 4, 5]].tolist() == [127, 127, 127]
    assert (integers[3].any(), scale[3].item()) == (False, 1.0)
    assert ((integers * scale - weight.bfloat16().float()).abs() <= 0.5001 * scale).all()


def test_what_is_written_is_read():
    assert read_quantized_linears(Fields({}, "config.json"), 2) == {}
    kept = {"layers.1.mlp.gate_proj", "layers.1.mlp.up_proj"}
    fine = {"layers.0.mlp.down_proj", "layers.1.self_attn.o_proj"}
    mixed = {name: QuantScheme(16 if name in fine else 8, name not in fine) for name in ALL - kept}
    alike = [
        dict.fromkeys(names, QuantScheme(b, r)) for names in (ALL, ALL - kept) for b in (8, 16) for r in (True, False)
    ]
    for linears in ({}, mixed, *alike):
        assert read(make_quantization_config(linears, 2)) == linears


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("quant_method", "gptq"),
        ("format", "marlin-24"),
        ("quantization_status", "frozen"),
        ("kv_cache_scheme", {"num_bits": 8}),
        ("sparsity_config", {"format": "dense"}),
        ("config_groups", {}),
        ("config_groups/group_0/targets", ["re:.*"]),
        ("config_groups/group_0/format", "float-quantized"),
        ("config_groups/group_0/input_activations", None),
        ("config_groups/group_0/weights/num_bits", 4),
        ("config_groups/group_0/weights/num_bits", 8.0),
        ("config_groups/group_0/weights/symmetric", 1),
        ("config_groups/group_0/weights/strategy", "group"),
        ("config_groups/group_0/weights/group_size", 128),
        ("config_groups/group_0/input_activations/dynamic", False),
        ("config_groups/group_0/input_activations/num_bits", 4),
        ("config_groups/group_0/input_activations/num_bits", 16.0),
        ("config_groups/group_0/input_activations/num_bits", None),
        ("config_groups/group_1", {"targets": ["Linear"]}),
        ("transform_config/config_groups", {}),
        ("transform_config/config_groups/rotation/type", "random-matrix"),
        ("transform_config/config_groups/rotation/head_dim", 32),
        ("transform_config/config_groups/rotation/head_dim", None),
        ("transform_config/config_groups/rotation/randomize", True),
        ("transform_config/config_groups/rotation/precision", "bfloat16"),
        ("transform_config/config_groups/rotation/seed", 3),
        ("transform_config/config_groups/second", {}),
        ("transform_config/second", {}),
        ("config_groups/group_1", {"targets": ["model.layers.99.mlp.down_proj"]}),
        ("config_groups/group_1", {"targets": ["lm_head"]}),
        ("ignore", ["lm_head", "model.layers.99.mlp.down_proj"]),
        ("ignore", []),
        # linear layers with a Hadamard transform that are not int8
        ("ignore", ["lm_head", "model.layers.0.mlp.down_proj"]),
        ("transform_config/config_groups/rotation/apply", []),
        ("transform_config/config_groups/rotation/apply", [{"location": "weight_input"}, {"location": "input"}]),
        ("config_groups/group_1", {"targets": ["model.layers.0.self_attn.o_proj"]}),
        ("ignore", ["re:.*down_proj"]),
        ("ignore", ["model.layers.0.self_attn.q_proj"]),
    ],
)
def test_other_schemes_are_refused(path, value):
    with pytest.raises(UnsupportedModel, match="codescaler quantize"):
        read(changed(path, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ignore", ["score", "model.layers.0.mlp.down_proj"], "another list of modules for weights"),
        ("ignore", ["model.layers.0.mlp.down_proj"], "without lm_head or score"),
        ("targets", ["re:.*"], "targets"),
        ("inverse", "yes", "inverse"),
        ("seed", 1, "seed"),
    ],
)
def test_weights_and_inputs_are_rotated_alike(key, value, message):
    scheme = make_quantization_config(dict.fromkeys(ALL, QuantScheme(8, has_hadamard=True)), 2)
    places = scheme["transform_config"]["config_groups"]["rotation"]["apply"]
    places[1]["inverse"] = True  # the matrix is its own
    assert read(scheme) == dict.fromkeys(ALL, QuantScheme(8, has_hadamard=True))
    places[1][key] = value
    with pytest.raises(UnsupportedModel, match=message):
        read(scheme)


@pytest.mark.parametrize("ignore", ["lm_head", [1], None])
def test_a_malformed_list_is_refused(ignore):
    with pytest.raises(WeightsError, match="list names of modules"):
        read(changed("ignore", ignore))


def test_a_look_up_gives_int8_where_asked(random):
    weights = {f"{name}.weight": torch.randn(4, 64, generator=random) for name in ("a", "b", "c")}
    weights["a.bias"] = torch.ones(4)
    get = quantize_tensors(
        weights.get, {"a": QuantScheme(8, has_hadamard=False), "c": QuantScheme(8, has_hadamard=True)}
    )
    assert get("a.weight").dtype == torch.int8
    assert get("a.weight_scale").shape == (4, 1)
    assert get("a.bias") is weights["a.bias"]
    assert get("b.weight") is weights["b.weight"]
    assert get("b.weight_scale") is None
    for name, exact in (("a", weights["a.weight"]), ("c", apply_hadamard(weights["c.weight"]))):
        scale = get(f"{name}.weight_scale")
        assert ((get(f"{name}.weight") * scale - exact).abs() <= 0.5001 * scale).all()
