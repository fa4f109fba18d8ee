"""`config.json` of the supported families, in any dialect, to one `ModelConfig`.

A family is a row of `_FAMILIES`; its defaults are those of transformers 5.23. This module knows no tensor and
opens no file: the caller has parsed the JSON.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from codescaler.checkpoint.compressed_tensors import list_scale_shapes, read_quantized_linears
from codescaler.errors import UnsupportedModel, WeightsError
from codescaler.io.json import Fields
from codescaler.types import Activation, HeadKind, ModelConfig, RopeConfig

DTYPES = ("float32", "bfloat16", "float16")

_MAX_LAYERS = 10_000
_DEFAULT_THETA = 10_000.0
_DEFAULT_WINDOW = 4096

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
}

_HEADS: dict[str, HeadKind] = {
    "SequenceClassification": "sequence_classification",
    "TokenClassification": "token_classification",
    "CausalLM": "none",
}
_ARCHITECTURES: dict[str, tuple[str, HeadKind]] = {
    f"{name}For{task}": (name.lower(), head)
    for name in ("Qwen3", "Qwen2", "Llama", "Gemma2")
    for task, head in _HEADS.items()
}
_ARCHITECTURES |= {"AceCodeRM": ("qwen2", "value_head"), "Qwen2ForCausalRM": ("qwen2", "value_head")}

# Settings that would change the numbers, and the one value at which they do not.
_NEUTRAL: dict[str, Any] = {
    "per_layer_config": None,
    "use_bidirectional_attention": False,
    "is_causal": True,
    "partial_rotary_factor": 1,
}

# Settings of a composite model that its text part may leave to the outer object.
_SHARED = ("architectures", "model_type", "dtype", "torch_dtype", "pad_token_id", "quantization_config")


def _list_full_attention(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    return (None,) * num_layers


def _list_qwen_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Layers from `max_window_layers` on slide, but only if `use_sliding_window` says so."""
    window = _read_sliding_window(fields) if fields.read_flag("use_sliding_window") else None
    first = num_layers if window is None else fields.read_size("max_window_layers", 28, low=0)
    return _list_layer_windows(fields, window, [i >= first for i in range(num_layers)])


def _list_gemma2_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Even layers slide."""
    return _list_layer_windows(fields, _read_sliding_window(fields), [i % 2 == 0 for i in range(num_layers)])


def _read_sliding_window(fields: Fields) -> int | None:
    return None if fields.is_null("sliding_window") else fields.read_size("sliding_window", _DEFAULT_WINDOW)


def _list_layer_windows(fields: Fields, window: int | None, slides: Sequence[bool]) -> tuple[int | None, ...]:
    """Windows per layer: `layer_types` where the file has it, else the family's own rule `slides`."""
    kinds = fields.values.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, Sequence) or isinstance(kinds, str) or len(kinds) != len(slides):
            raise fields.make_error("layer_types", f"list one kind for each of the {len(slides)} layers")
        unknown = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
        if unknown:
            raise UnsupportedModel(
                f"{fields.where}: layer_types holds {unknown[0]!r}; only full_attention and "
                "sliding_attention are computed. Score this checkpoint with transformers."
            )
        slides = [kind == "sliding_attention" for kind in kinds]
    if any(slides) and window is None:
        raise fields.make_error("sliding_window", "set it (and use_sliding_window), for some layers slide")
    return tuple(window if slide else None for slide in slides)


def _read_gemma2_extras(fields: Fields, hidden_size: int) -> dict[str, Any]:
    """What only Gemma2 has; the embedding scale is exact here, the decoder rounds it to the weight dtype."""
    has_softcap = not fields.is_null("attn_logit_softcapping")
    return {
        "attention_scale": fields.read_number("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": fields.read_number("attn_logit_softcapping", 50.0) if has_softcap else None,
        "embedding_scale": math.sqrt(hidden_size),
        "norm_weight_offset": 1.0,
        "has_post_norms": True,
    }


def _read_no_extras(fields: Fields, hidden_size: int) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class _Family:
    """How one family differs, and the defaults its transformers class fills in.

    `head_dim` None means hidden_size / num_attention_heads; `num_kv_heads` None means one per query head.
    `has_fixed_bias` is Qwen2's way: q, k and v always have a bias, o never, whatever `attention_bias` says.
    """

    max_positions: int
    layer_windows: Callable[[Fields, int], tuple[int | None, ...]]
    head_dim: int | None = None
    num_kv_heads: int | None = None
    activation_key: str = "hidden_act"
    activation: str = "silu"
    pad_token_id: int | None = None
    has_qk_norm: bool = False
    has_fixed_bias: bool = False
    reads_mlp_bias: bool = False
    extras: Callable[[Fields, int], dict[str, Any]] = _read_no_extras


_FAMILIES = {
    "qwen3": _Family(32768, _list_qwen_windows, head_dim=128, num_kv_heads=32, has_qk_norm=True),
    "qwen2": _Family(32768, _list_qwen_windows, num_kv_heads=32, has_fixed_bias=True),
    "llama": _Family(2048, _list_full_attention, reads_mlp_bias=True),
    "gemma2": _Family(
        8192,
        _list_gemma2_windows,
        head_dim=256,
        num_kv_heads=4,
        activation_key="hidden_activation",
        activation="gelu_pytorch_tanh",
        pad_token_id=0,
        extras=_read_gemma2_extras,
    ),
}


def parse_config(raw: Mapping[str, Any], *, where: str) -> ModelConfig:
    """Reads a parsed `config.json` into a `ModelConfig`.

    Both dialects are read: `torch_dtype`, `rope_theta` and `rope_scaling` of transformers 4, `dtype` and
    `rope_parameters` of transformers 5; a composite model's text settings are taken from `text_config`.
    `num_labels` is not looked at: the head tensor's shape is the truth. An absent dtype is float32. `where`
    is the file's name, for messages.

    Raises:
        WeightsError: a key is missing or its value makes no sense.
        UnsupportedModel: the file asks for something that the decoder does not compute.
    """
    fields = _select_text_fields(raw, where)
    _refuse_what_changes_the_numbers(fields)
    architecture, name, head = _read_architecture(fields)
    family = _FAMILIES[name]
    num_layers = fields.read_size("num_hidden_layers", high=_MAX_LAYERS)
    hidden_size = fields.read_size("hidden_size")
    num_heads, num_kv_heads, head_dim = _read_attention_sizes(fields, family, hidden_size)
    has_bias = fields.read_flag("attention_bias")
    max_positions = fields.read_size("max_position_embeddings", family.max_positions)
    config = ModelConfig(
        family=name,
        architecture=architecture,
        head=head,
        dtype=_read_choice(fields, "torch_dtype" if fields.values.get("dtype") is None else "dtype", "float32", DTYPES),
        vocab_size=fields.read_size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.read_size("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_positions=max_positions,
        norm_eps=fields.read_number("rms_norm_eps", 1e-6),
        rope=_read_rope(fields, max_positions),
        activation=_ACTIVATIONS[_read_choice(fields, family.activation_key, family.activation, _ACTIVATIONS)],
        attention_scale=head_dim**-0.5,
        layer_windows=family.layer_windows(fields, num_layers),
        has_qk_norm=family.has_qk_norm,
        has_qkv_bias=family.has_fixed_bias or has_bias,
        has_o_bias=has_bias and not family.has_fixed_bias,
        has_mlp_bias=family.reads_mlp_bias and fields.read_flag("mlp_bias"),
        pad_token_id=_read_pad_token_id(fields, family),
        quantized_linears=read_quantized_linears(fields, num_layers),
    )
    return replace(config, **family.extras(fields, hidden_size))


def _select_text_fields(raw: Mapping[str, Any], where: str) -> Fields:
    """Returns the text model's settings, in a composite config those of its `text_config`."""
    outer = Fields(raw, where)
    if raw.get("text_config") is None:
        return outer
    text = outer.read_object("text_config")
    shared = {key: raw[key] for key in _SHARED if raw.get(key) is not None}
    own = {key: value for key, value in text.values.items() if value is not None or key not in shared}
    return Fields(shared | own, text.where)


def _refuse_what_changes_the_numbers(fields: Fields) -> None:
    rope = fields.read_object("rope_parameters").values, fields.read_object("rope_scaling").values
    for key, neutral in _NEUTRAL.items():
        for values in (fields.values, *rope):
            if values.get(key) is not None and values[key] != neutral:
                raise UnsupportedModel(
                    f"{fields.where}: {key} is {str(values[key])[:80]}, which the engine does not compute. "
                    "Use a checkpoint without it, or score this one with transformers."
                )


def _read_architecture(fields: Fields) -> tuple[str, str, HeadKind]:
    """Returns the class name, the family and the head it stands for."""
    names = fields.values.get("architectures")
    if not isinstance(names, Sequence) or len(names) != 1 or not isinstance(names[0], str):
        raise fields.make_error("architectures", 'set it to one class name, such as ["Qwen3ForSequenceClassification"]')
    if names[0] not in _ARCHITECTURES:
        raise UnsupportedModel(
            f"{fields.where}: the architecture is {names[0][:80]!r}; use one of {', '.join(_ARCHITECTURES)}."
        )
    family, head = _ARCHITECTURES[names[0]]
    model_type = fields.read_text("model_type", family)
    # A value-head class is remote code and may carry a model_type of its own; its name then tells the family.
    if model_type != family and (model_type in _FAMILIES or head != "value_head"):
        raise UnsupportedModel(
            f"{fields.where}: architecture {names[0]} asks for model_type {family!r}, but it is "
            f"{model_type[:80]!r}. Fix whichever is wrong."
        )
    return names[0], family, head


def _read_attention_sizes(fields: Fields, family: _Family, hidden_size: int) -> tuple[int, int, int]:
    """Returns the numbers of query and kv heads, and the head dim."""
    num_heads = fields.read_size("num_attention_heads")
    key = "num_key_value_heads"
    default = num_heads if family.num_kv_heads is None or fields.is_null(key) else family.num_kv_heads
    num_kv_heads = fields.read_size(key, default)
    if num_heads % num_kv_heads:
        raise WeightsError(
            f"{fields.where}: num_attention_heads {num_heads} is not a multiple of {key} {num_kv_heads}; "
            "fix whichever is wrong."
        )
    if family.head_dim is None and fields.values.get("head_dim") is None and hidden_size % num_heads:
        raise fields.make_error("head_dim", f"set it: hidden_size {hidden_size} is no multiple of {num_heads} heads")
    head_dim = fields.read_size("head_dim", family.head_dim or hidden_size // num_heads)
    if head_dim % 2:
        raise WeightsError(f"{fields.where}: head_dim is {head_dim}; RoPE turns pairs, so set an even one.")
    return num_heads, num_kv_heads, head_dim


def _read_choice(fields: Fields, key: str, default: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    value = fields.read_text(key, default)
    if value not in known:
        raise UnsupportedModel(
            f"{fields.where}: {key} is {value[:80]!r}; supported are {', '.join(known)}. "
            "Convert the checkpoint, or score it with transformers."
        )
    return value


def _read_pad_token_id(fields: Fields, family: _Family) -> int | None:
    key = "pad_token_id"
    if fields.values.get(key) is None:
        return None if fields.is_null(key) else family.pad_token_id
    # Some checkpoints write -1 for "none": no token ever equals it, so it needs no special care.
    return fields.read_size(key, low=-1)


def _read_rope(fields: Fields, max_positions: int) -> RopeConfig:
    """Reads RoPE: `rope_scaling` wins over `rope_parameters`, a theta inside either over the outer one."""
    rope = fields.read_object("rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters")
    if any(isinstance(value, Mapping) for value in rope.values.values()):
        raise UnsupportedModel(f"{rope.where}: one RoPE per layer kind is not computed; use a model with one RoPE.")
    kind = rope.read_text("rope_type", rope.read_text("type", "default"))
    theta = rope.read_number("rope_theta", fields.read_number("rope_theta", _DEFAULT_THETA))
    if kind == "default":
        return RopeConfig(theta)
    if kind == "linear":
        return RopeConfig(theta, "linear", factor=rope.read_number("factor"))
    if kind != "llama3":
        raise UnsupportedModel(
            f"{rope.where}: RoPE kind {kind[:80]!r} is not computed, only default, linear and llama3. "
            "Use a checkpoint with one of these, or score this one with transformers."
        )
    key = "original_max_position_embeddings"
    low, high = rope.read_number("low_freq_factor"), rope.read_number("high_freq_factor")
    if low >= high:
        raise rope.make_error("low_freq_factor", f"set it below high_freq_factor, which is {high:g}")
    original = fields.read_size(key, rope.read_size(key, max_positions))
    return RopeConfig(theta, "llama3", rope.read_number("factor"), low, high, original)


def list_tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns the canonical name and shape of every tensor of the model but its head.

    Legend: D hidden, F ffn, V vocabulary, N query heads, K kv heads, H head dim. A linear weight is
    [outputs, inputs].
    """
    D, F, H = config.hidden_size, config.intermediate_size, config.head_dim
    Q, KV = config.num_heads * H, config.num_kv_heads * H
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (D,),
        "post_attention_layernorm.weight": (D,),
    }
    if config.has_post_norms:
        layer |= {"pre_feedforward_layernorm.weight": (D,), "post_feedforward_layernorm.weight": (D,)}
    if config.has_qk_norm:
        layer |= {"self_attn.q_norm.weight": (H,), "self_attn.k_norm.weight": (H,)}
    linears = (
        ("self_attn.q_proj", Q, D, config.has_qkv_bias),
        ("self_attn.k_proj", KV, D, config.has_qkv_bias),
        ("self_attn.v_proj", KV, D, config.has_qkv_bias),
        ("self_attn.o_proj", D, Q, config.has_o_bias),
        ("mlp.gate_proj", F, D, config.has_mlp_bias),
        ("mlp.up_proj", F, D, config.has_mlp_bias),
        ("mlp.down_proj", D, F, config.has_mlp_bias),
    )
    for name, outputs, inputs, has_bias in linears:
        layer[f"{name}.weight"] = (outputs, inputs)
        if has_bias:
            layer[f"{name}.bias"] = (outputs,)
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config.vocab_size, D), "norm.weight": (D,)}
    for i in range(config.num_layers):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes | list_scale_shapes(config.quantized_linears, shapes)
