"""The rotary position embedding that a `config.json` asks for, in either dialect."""

import math
from collections.abc import Mapping, Sequence

from codescaler.errors import UnsupportedModel
from codescaler.io.json import MAX_NUMBER, MIN_NUMBER, Fields
from codescaler.types import RopeConfig

_DEFAULT_THETA = 10_000.0
_ORIGINAL = "original_max_position_embeddings"
_LONG_NAMES = ("longrope", "su", "yarn")  # the last two are Phi-3's older names
_LAYER_KINDS = ("full_attention", "sliding_attention")


def select_rope_fields(fields: Fields) -> Fields:
    """Returns the object with the settings: `rope_parameters` of transformers 5, else `rope_scaling`."""
    return fields.read_object("rope_scaling" if fields.values.get("rope_parameters") is None else "rope_parameters")


def read_rope(
    fields: Fields, max_positions: int, head_dim: int, *, default_theta: float = _DEFAULT_THETA, has_longrope: bool
) -> RopeConfig:
    """Returns the one RoPE of every layer. Raises UnsupportedModel if it is of a kind that is not computed."""
    rope = select_rope_fields(fields)
    if any(isinstance(value, Mapping) for value in rope.values.values()):
        raise UnsupportedModel(f"{rope.where}: one RoPE per layer kind is not computed; use a model with one RoPE.")
    theta = rope.read_number("rope_theta", fields.read_number("rope_theta", default_theta))
    kind = rope.read_text("rope_type", rope.read_text("type", "default"))
    if has_longrope and kind in _LONG_NAMES:
        return _read_longrope(fields, rope, theta, max_positions, head_dim)
    return _read_kind(fields, rope, theta, kind, max_positions)


def read_layer_ropes(
    fields: Fields, max_positions: int, theta: float, local_theta: float
) -> tuple[RopeConfig, RopeConfig]:
    """Returns the RoPE of layers with full attention, and of those that slide: Gemma3's.

    In the older dialect `rope_theta` and `rope_scaling` are for the first, `rope_local_base_freq` for the others.
    """
    rope = select_rope_fields(fields)
    full, local = (rope.read_object(kind) for kind in _LAYER_KINDS)
    if not any(kind in rope.values for kind in _LAYER_KINDS):
        full, local = rope, Fields({}, rope.where)
    theta = full.read_number("rope_theta", fields.read_number("rope_theta", theta))
    local_theta = local.read_number("rope_theta", fields.read_number("rope_local_base_freq", local_theta))
    first, second = (
        _read_kind(fields, part, base, part.read_text("rope_type", part.read_text("type", "default")), max_positions)
        for part, base in ((full, theta), (local, local_theta))
    )
    return first, second


def _read_kind(fields: Fields, rope: Fields, theta: float, kind: str, max_positions: int) -> RopeConfig:
    if kind == "default":
        return RopeConfig(theta)
    if kind == "dynamic":  # other frequencies only above the model's positions
        return RopeConfig(theta, "dynamic")
    if kind == "linear":
        return RopeConfig(theta, "linear", factor=rope.read_number("factor"))
    if kind != "llama3":
        raise UnsupportedModel(
            f"{rope.where}: RoPE kind {kind[:80]!r} is not computed, only default, linear, dynamic and llama3. "
            "Use a checkpoint with one of these, or score this one with transformers."
        )
    low, high = rope.read_number("low_freq_factor"), rope.read_number("high_freq_factor")
    if low >= high:
        raise rope.make_error("low_freq_factor", f"set it below high_freq_factor, which is {high:g}")
    original = fields.read_size(_ORIGINAL, rope.read_size(_ORIGINAL, max_positions))
    return RopeConfig(theta, "llama3", rope.read_number("factor"), low, high, original)


def _read_longrope(fields: Fields, rope: Fields, theta: float, max_positions: int, head_dim: int) -> RopeConfig:
    """Phi-3's: the short factors, which hold up to the original positions, and the scale of cosine and sine."""
    original = rope.read_size(_ORIGINAL, fields.read_size(_ORIGINAL, max_positions))
    factor = rope.read_number("factor", max_positions / original)
    scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    factors = rope.values.get("short_factor")
    rotary_dims = count_rotary_dims(fields, head_dim)
    if not isinstance(factors, Sequence) or isinstance(factors, str) or len(factors) != rotary_dims // 2:
        raise rope.make_error("short_factor", f"give {rotary_dims // 2} numbers, one for each pair of dims that turns")
    if not all(type(value) in (int, float) and MIN_NUMBER <= value <= MAX_NUMBER for value in factors):
        raise rope.make_error("short_factor", f"give numbers from {MIN_NUMBER:g} to {MAX_NUMBER:g}")
    return RopeConfig(
        theta,
        "longrope",
        original_max_positions=original,
        factors=tuple(map(float, factors)),
        table_scale=rope.read_number("attention_factor", scale),
    )


def count_rotary_dims(fields: Fields, head_dim: int) -> int:
    """Returns how many dims of a head turn: the `partial_rotary_factor` of them.

    Raises: WeightsError if that is no even number from 2 on.
    """
    rope, key = select_rope_fields(fields), "partial_rotary_factor"
    holder = rope if rope.values.get(key) is not None else fields
    dims = int(head_dim * min(holder.read_number(key, 1.0), 2.0))
    if dims % 2 or not 0 < dims <= head_dim:
        raise holder.make_error(key, f"set it so that an even number of the {head_dim} dims of a head turns")
    return dims
