"""Quantised weights: how a checkpoint's `config.json` says which linear layers it holds in int8 or in fp8.

The file format of int8 is compressed-tensors' "int-quantized" with 8-bit weights, one scale an output, and activations
quantised a token at a time while they are multiplied, to 8 bits (W8A8, dynamic, which vLLM knows too) or to 16; where
inputs have a Hadamard transform, that is its transform "hadamard". That of fp8 is "float-quantized", the same with e4m3
in place of integers, and without a transform. "pack-quantized" is how weights are stored, and no way to multiply them
(`packed.py`). Source: the package compressed-tensors 0.17 and 0.20, `quantization/quant_config.py`,
`compressors/naive_quantized`, `compressors/pack_quantized`, `transform`. This module opens no file.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from codescaler.errors import UnsupportedModel
from codescaler.io.json import Fields
from codescaler.model.projections import list_fused_linears, list_linear_names
from codescaler.types import ACTIVATION_BITS, HADAMARD_BLOCK, ActivationBits, Fp8Scheme, QuantScheme, Scheme

_WEIGHTS = {"num_bits": 8, "symmetric": True, "strategy": "channel", "dynamic": False}
_ACTIVATIONS = {"symmetric": True, "strategy": "token", "dynamic": True}
# What the numbers of a format are called.
_TYPES = {"int-quantized": "int", "float-quantized": "float"}
_PACKED = "pack-quantized"
_PACKED_MODULES = ("Linear", "Embedding")
# What may be said of packed weights. "weight" orders what is rounded, and leaves no trace; "group" leaves an index.
_PACKINGS: dict[str, tuple[object, ...]] = {
    "num_bits": (2, 4, 8),
    "strategy": ("group", "channel"),
    "dynamic": (None, False),
    "block_structure": (None,),
    "actorder": (None, "weight", "static"),
    "zp_dtype": (None, "torch.int8"),
}
_HADAMARD = {"type": "hadamard", "head_dim": HADAMARD_BLOCK}
_HADAMARD_PLACES = ("input", "weight_input")
_PRECISIONS = (None, "float32", "torch.float32")
_HEADS = ("lm_head", "score")
_EVERY = ["Linear"]  # targets of the group that holds the linear layers which no other names
_MODULE = re.compile(r"(?:model\.)?(layers\.\d+\.\w+\.\w+_proj)")


def make_quantization_config(linears: Mapping[str, Scheme], num_layers: int) -> dict[str, Any]:
    """Returns `quantization_config` of a folder in which these linear layers, by canonical name, are quantised."""
    is_fp8 = any(isinstance(scheme, Fp8Scheme) for scheme in linears.values())
    name = "float-quantized" if is_fp8 else "int-quantized"
    groups = [(bits, [name for name in sorted(linears) if linears[name].bits == bits]) for bits in ACTIVATION_BITS]
    present = [(bits, names) for bits, names in groups if names] or groups[:1]

    def list_all_but(names: Collection[str]) -> list[str]:
        return [*_HEADS, *(f"model.{name}" for name in sorted(list_linear_names(num_layers).difference(names)))]

    transformed = [name for name, scheme in linears.items() if scheme.has_hadamard]
    places = [{"targets": _EVERY, "location": place, "ignore": list_all_but(transformed)} for place in _HADAMARD_PLACES]
    return {
        "quant_method": "compressed-tensors",
        "format": name,
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": {
                "targets": [f"model.{name}" for name in names] if number else _EVERY,
                "weights": {**_WEIGHTS, "type": _TYPES[name]},
                "input_activations": {"num_bits": bits, "type": _TYPES[name], **_ACTIVATIONS},
            }
            for number, (bits, names) in enumerate(present)
        },
        "ignore": list_all_but(linears),
    } | ({"transform_config": {"config_groups": {"rotation": _HADAMARD | {"apply": places}}}} if transformed else {})


def make_packing_config(bits: Mapping[str, int], group_size: int) -> dict[str, Any]:
    """Returns `quantization_config` of a folder whose "Linear" and "Embedding" modules are packed in so many bits.

    Linear layers have a scale for `group_size` inputs, the embedding has one for each token. The head stays.
    """

    def describe(target: str) -> dict[str, Any]:
        groups = {"strategy": "group", "group_size": group_size} if target == "Linear" else {"strategy": "channel"}
        weights = {"num_bits": bits[target], "type": "int", "symmetric": True, "dynamic": False, **groups}
        return {"targets": [target], "weights": weights, "input_activations": None}

    return {
        "quant_method": "compressed-tensors",
        "format": _PACKED,
        "quantization_status": "compressed",
        "config_groups": {f"group_{number}": describe(target) for number, target in enumerate(sorted(bits))},
        "ignore": list(_HEADS),
    }


def read_packed_bits(fields: Fields) -> dict[str, int]:
    """Returns in how many bits "Linear" and "Embedding" modules are packed, by `quantization_config`; none without it.

    What `ignore` leaves out is seen from its tensors.

    Raises: UnsupportedModel: it says anything else of packed weights than `make_packing_config` would.
    """
    scheme = _read_scheme(fields)
    if scheme is None or scheme.values["format"] != _PACKED:
        return {}
    if scheme.values.get("transform_config"):
        raise _make_unsupported(scheme, "transform_config", "there, beside packed weights")
    groups = scheme.read_object("config_groups")
    bits: dict[str, int] = {}
    for name in groups.values:
        group = groups.read_object(name)
        for key in ("input_activations", "output_activations"):
            _require(group, key, None)
        if group.values.get("format") is not None:
            _require(group, "format", _PACKED)
        weights = group.read_object("weights")
        for key, expected in {"type": "int", "symmetric": True}.items():
            _require(weights, key, expected)
        for key, choices in _PACKINGS.items():
            if weights.values.get(key) not in choices or isinstance(weights.values.get(key), float):
                raise _make_unsupported(weights, key, repr(weights.values.get(key))[:80])
        target = next((name for name in _PACKED_MODULES if group.values.get("targets") == [name]), None)
        if target is None or target in bits:
            raise _make_unsupported(group, "targets", repr(group.values.get("targets"))[:80])
        bits[target] = weights.values["num_bits"]
    return bits


def _read_scheme(fields: Fields) -> Fields | None:
    """Returns `quantization_config` if it is of a format that is known; None if there is none."""
    if fields.values.get("quantization_config") is None:
        return None
    scheme = fields.read_object("quantization_config")
    _require(scheme, "quant_method", "compressed-tensors")
    stored = scheme.values.get("format")
    if stored not in (*_TYPES, _PACKED):
        raise _make_unsupported(scheme, "format", repr(stored)[:80])
    _require(scheme, "quantization_status", "compressed")
    for name in ("kv_cache_scheme", "sparsity_config"):
        if scheme.values.get(name):  # absent, null and {} say the same
            raise _make_unsupported(scheme, name, str(scheme.values[name])[:80])
    return scheme


def read_quantized_linears(fields: Fields, num_layers: int) -> dict[str, Scheme]:
    """Returns the linear layers that `quantization_config` says are multiplied in 8 bits, by canonical name.

    There are none without it, and none of packed weights.

    Raises: UnsupportedModel: it says anything else than `make_quantization_config` would.
    """
    scheme = _read_scheme(fields)
    if scheme is None or scheme.values["format"] == _PACKED:
        return {}
    stored = scheme.values["format"]
    groups = scheme.read_object("config_groups")
    parts = [groups.read_object(name) for name in groups.values]
    rest = [group for group in parts if group.values.get("targets") == _EVERY]
    if len(rest) != 1 or len(parts) > len(ACTIVATION_BITS):
        raise _make_unsupported(
            groups, "config_groups", f"{len(parts)} groups, {len(rest)} of them with targets {_EVERY}"
        )
    linears = dict.fromkeys(list_linear_names(num_layers), _read_activation_bits(rest[0], stored))
    for group in parts:
        if group is not rest[0]:
            linears |= dict.fromkeys(_read_modules(group, "targets", num_layers), _read_activation_bits(group, stored))
    int8, transformed = linears.keys() - _read_ignored(scheme, num_layers), _read_hadamard(scheme, num_layers)
    if transformed and stored != "int-quantized":
        raise _make_unsupported(scheme, "transform_config", "there, beside fp8")
    if not transformed <= int8:
        raise _make_unsupported(
            scheme, "transform_config", f"for linear layers that are not int8, such as {min(transformed - int8)}"
        )
    if stored == "float-quantized":
        return dict.fromkeys(sorted(int8), Fp8Scheme())
    return {name: QuantScheme(linears[name], name in transformed) for name in sorted(int8)}


def _read_hadamard(scheme: Fields, num_layers: int) -> frozenset[str]:
    """The linear layers with a Hadamard transform of their inputs, in weights and in activations."""
    if not scheme.values.get("transform_config"):
        return frozenset()
    transforms = scheme.read_object("transform_config")
    _require_known(transforms, {"config_groups"})
    groups = transforms.read_object("config_groups")
    if len(groups.values) != 1:
        raise _make_unsupported(groups, "transform_config", f"{len(groups.values)} groups")
    hadamard = groups.read_object(next(iter(groups.values)))
    _require_known(hadamard, {*_HADAMARD, "apply", "randomize", "requires_grad", "precision"})
    for name, value in _HADAMARD.items():
        _require(hadamard, name, value)
    for name, choices in (("randomize", (None, False)), ("requires_grad", (None, False)), ("precision", _PRECISIONS)):
        if hadamard.values.get(name) not in choices:
            raise _make_unsupported(hadamard, name, repr(hadamard.values[name])[:80])
    places = hadamard.values.get("apply")
    if not isinstance(places, list) or not all(isinstance(place, dict) for place in places):
        raise hadamard.make_error("apply", "list what is transformed")
    parts = [Fields(place, f"{hadamard.where}: apply") for place in places]
    if [part.values.get("location") for part in parts] != list(_HADAMARD_PLACES):
        raise _make_unsupported(hadamard, "apply", repr([part.values.get("location") for part in parts])[:80])
    for part in parts:
        _require_known(part, {"targets", "location", "ignore", "inverse"})
        _require(part, "targets", _EVERY)
        if part.values.get("inverse") not in (None, False, True):  # the matrix is its own inverse
            raise _make_unsupported(part, "inverse", repr(part.values["inverse"])[:80])
    left_out = {_read_ignored(part, num_layers) for part in parts}
    if len(left_out) != 1:
        raise _make_unsupported(hadamard, "apply", "another list of modules for weights than for inputs")
    return list_linear_names(num_layers) - left_out.pop()


def _read_activation_bits(group: Fields, stored: str) -> ActivationBits:
    """What a group of linear layers has in its activations, if all else is as it must be."""
    _require(group, "output_activations", None)
    if group.values.get("format") is not None:
        _require(group, "format", stored)
    for key, expected in (("weights", _WEIGHTS), ("input_activations", _ACTIVATIONS)):
        part = group.read_object(key)
        for name, value in {**expected, "type": _TYPES[stored]}.items():
            _require(part, name, value)
        for name in ("group_size", "block_structure", "actorder"):
            _require(part, name, None)
    found = group.read_object("input_activations").values.get("num_bits")
    if not isinstance(found, int) or found not in (ACTIVATION_BITS if stored == "int-quantized" else (8,)):
        raise _make_unsupported(group, "num_bits", repr(found)[:80])
    return found


def _require_known(fields: Fields, keys: Collection[str]) -> None:
    """Refuses settings that the format does not have: they would mean something."""
    for key in fields.values:
        if key not in keys:
            raise _make_unsupported(fields, str(key)[:80], "there")


def _read_ignored(fields: Fields, num_layers: int) -> frozenset[str]:
    """The linear layers that `ignore` leaves out; it has to leave out the head too, whatever that is called."""
    modules = _read_modules(fields, "ignore", num_layers, _HEADS)
    if not any(name in _HEADS for name in fields.values["ignore"]):
        raise _make_unsupported(fields, "ignore", "without " + " or ".join(_HEADS))
    return modules


def _read_modules(fields: Fields, key: str, num_layers: int, others: Collection[str] = ()) -> frozenset[str]:
    """The linear layers that a list holds; each by its whole name, and with those it is multiplied with."""
    names = fields.values.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise fields.make_error(key, "list names of modules")
    named = {name: match[1] if (match := _MODULE.fullmatch(name)) else name for name in names if name not in others}
    known = list_linear_names(num_layers)
    for name, module in named.items():
        if module not in known:
            raise _make_unsupported(fields, key, repr(name)[:80])
    modules = frozenset(named.values())
    for fused in list_fused_linears(num_layers):
        if modules.intersection(fused) and not modules.issuperset(fused):
            raise UnsupportedModel(
                f"{fields.where}: {key} holds some of {', '.join(fused)}, which are computed as one; quantise the "
                "model again with all or none of them, as `codescaler quantize` does."
            )
    return modules


def _require(fields: Fields, key: str, expected: object) -> None:
    if fields.values.get(key) != expected or type(fields.values.get(key)) is not type(expected):
        raise _make_unsupported(fields, key, repr(fields.values.get(key))[:80])


def _make_unsupported(fields: Fields, key: str, seen: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{fields.where}: {key} is {seen}; of quantised models only those of the compressed-tensors formats "
        "int-quantized and float-quantized are computed (weights by channel, activations of 8 or 16 bits by token), "
        "and pack-quantized is read (weights of 2, 4 or 8 bits without zero points). "
        "Give the model as it was before, with quantization='int8', or make it one by `codescaler quantize`."
    )


def list_scale_shapes(linears: Collection[str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Returns name and shape of the scales of these linear layers, given every tensor's shape."""
    return {f"{name}.weight_scale": (shapes[f"{name}.weight"][0], 1) for name in linears}
