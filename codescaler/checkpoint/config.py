"""`config.json` of the supported families, in any dialect, to one `ModelConfig`.

What a family reads in its own way is in `families.py`. This module knows no tensor and opens no file: the caller has
parsed the JSON.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from codescaler.checkpoint.compressed_tensors import list_scale_shapes, read_packed_bits, read_quantized_linears
from codescaler.checkpoint.families import FAMILIES, MAX_LAYERS, Family
from codescaler.checkpoint.rope import read_rope
from codescaler.errors import UnsupportedModel, WeightsError
from codescaler.io.json import Fields
from codescaler.model.projections import ROUTER, list_expert_names
from codescaler.types import Activation, ExpertsConfig, ModelConfig

DTYPES = ("float32", "bfloat16", "float16")

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
}

# Settings that would change the numbers, and the one value at which they do not.
_NEUTRAL: dict[str, Any] = {
    "per_layer_config": None,
    "use_bidirectional_attention": False,
    "is_causal": True,
}
_PARTIAL_ROTARY = {"partial_rotary_factor": 1}

# Classes of remote code whose model_type may be their own: their name alone tells the family.
_CLASS_FAMILIES = {"AceCodeRM": "qwen2", "Qwen2ForCausalRM": "qwen2"}
# What a class may be called whose forward is its family's, with one of our heads or none.
_CLASSES = re.compile(
    r"|(?!.*Bidirectional)"
    r".*(For(SequenceClassification|TokenClassification|CausalLM|ConditionalGeneration)|Model|RM|RewardModel.*)"
)

# Model types that are not computed, and why. Others are only not known.
_REFUSED = {
    "qwen3_(next|5.*)": "its layers of linear attention carry a state from token to token, which a tree of prefixes "
    "does not have",
}

# Settings of a composite model that its text part may leave to the outer object.
_SHARED = ("architectures", "model_type", "dtype", "torch_dtype", "pad_token_id", "quantization_config")


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
    fields = select_text_fields(raw, where)
    architecture, name = _read_architecture(fields)
    family = FAMILIES[name]
    _refuse_what_changes_the_numbers(fields, _NEUTRAL if family.has_partial_rotary else _NEUTRAL | _PARTIAL_ROTARY)
    num_layers = fields.read_size("num_hidden_layers", high=MAX_LAYERS)
    hidden_size = fields.read_size("hidden_size")
    num_heads, num_kv_heads, head_dim = _read_attention_sizes(fields, family, hidden_size)
    has_bias = family.reads_attention_bias and fields.read_flag("attention_bias")
    max_positions = fields.read_size("max_position_embeddings", family.max_positions)
    no_rope = Fields({}, fields.where)  # a family with several reads them itself
    config = ModelConfig(
        family=name,
        architecture=architecture,
        head="none",
        dtype=_read_choice(fields, "torch_dtype" if fields.values.get("dtype") is None else "dtype", "float32", DTYPES),
        vocab_size=fields.read_size("vocab_size", family.vocab_size),
        hidden_size=hidden_size,
        intermediate_size=fields.read_size("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_positions=max_positions,
        norm_eps=fields.read_number("rms_norm_eps", family.norm_eps),
        rope=read_rope(
            no_rope if family.has_layer_ropes else fields,
            max_positions,
            head_dim,
            has_longrope=family.has_partial_rotary,
        ),
        activation=_ACTIVATIONS[_read_choice(fields, family.activation_key, family.activation, _ACTIVATIONS)],
        attention_scale=head_dim**-0.5,
        layer_windows=family.layer_windows(fields, num_layers),
        has_qk_norm=family.has_qk_norm,
        has_qkv_bias=family.has_fixed_bias or has_bias,
        has_o_bias=has_bias and not family.has_fixed_bias,
        has_mlp_bias=family.reads_mlp_bias and fields.read_flag("mlp_bias"),
        pad_token_id=_read_pad_token_id(fields, family),
        quantized_linears=read_quantized_linears(fields, num_layers),
        packed_bits=read_packed_bits(fields),
    )
    return replace(config, **family.extras(fields, config))


def select_text_fields(raw: Mapping[str, Any], where: str) -> Fields:
    """Returns the text model's settings, in a composite config those of its `text_config`."""
    outer = Fields(raw, where)
    if raw.get("text_config") is None:
        return outer
    text = outer.read_object("text_config")
    shared = {key: raw[key] for key in _SHARED if raw.get(key) is not None}
    own = {key: value for key, value in text.values.items() if value is not None or key not in shared}
    return Fields(shared | own, text.where)


def _refuse_what_changes_the_numbers(fields: Fields, neutral: Mapping[str, Any]) -> None:
    rope = fields.read_object("rope_parameters").values, fields.read_object("rope_scaling").values
    for key, value in neutral.items():
        for values in (fields.values, *rope):
            if values.get(key) is not None and values[key] != value:
                raise UnsupportedModel(
                    f"{fields.where}: {key} is {str(values[key])[:80]}, which the engine does not compute. "
                    "Score this checkpoint with transformers."
                )


def _read_architecture(fields: Fields) -> tuple[str, str]:
    """Returns the class name ("" where the file has none) and the family.

    The family is the model_type. A class name that begins with a family's must say the same.
    """
    names = fields.values.get("architectures") or [""]
    if not isinstance(names, Sequence) or len(names) != 1 or not isinstance(names[0], str):
        raise fields.make_error("architectures", 'set it to one class name, such as ["Qwen3ForSequenceClassification"]')
    name = names[0]
    by_class = _CLASS_FAMILIES.get(name) or next(
        (family for family, row in FAMILIES.items() if re.match(rf"({'|'.join(row.class_names)})(For|Model)", name)),
        None,
    )
    model_type = fields.read_text("model_type", by_class or "")
    for pattern, reason in _REFUSED.items():
        if re.fullmatch(pattern, model_type):
            raise UnsupportedModel(f"{fields.where}: model_type {model_type[:80]!r} is not computed: {reason}.")
    if name in _CLASS_FAMILIES and model_type not in FAMILIES:
        model_type = _CLASS_FAMILIES[name]
    if model_type not in FAMILIES or not _CLASSES.fullmatch(name):
        raise UnsupportedModel(
            f"{fields.where}: the architecture is {name[:80]!r} and the model_type {model_type[:80]!r}; codescaler "
            f"computes the model types {', '.join(FAMILIES)}, as reward models or causal language models."
        )
    if by_class not in (None, model_type):
        raise UnsupportedModel(
            f"{fields.where}: architecture {name[:80]} asks for model_type {by_class!r}, but it is "
            f"{model_type[:80]!r}. Fix whichever is wrong."
        )
    return name, model_type


def _read_attention_sizes(fields: Fields, family: Family, hidden_size: int) -> tuple[int, int, int]:
    """Returns the numbers of query and kv heads, and the head dim."""
    num_heads = fields.read_size("num_attention_heads", family.num_heads)
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


def _read_pad_token_id(fields: Fields, family: Family) -> int | None:
    key = "pad_token_id"
    if fields.values.get(key) is None:
        return None if fields.is_null(key) else family.pad_token_id
    # Some checkpoints write -1 for "none": no token ever equals it, so it needs no special care.
    return fields.read_size(key, low=-1)


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
    attention = (
        ("self_attn.q_proj", Q, D, config.has_qkv_bias),
        ("self_attn.k_proj", KV, D, config.has_qkv_bias),
        ("self_attn.v_proj", KV, D, config.has_qkv_bias),
        ("self_attn.o_proj", D, Q, config.has_o_bias),
    )
    mlp = (
        ("mlp.gate_proj", F, D, config.has_mlp_bias),
        ("mlp.up_proj", F, D, config.has_mlp_bias),
        ("mlp.down_proj", D, F, config.has_mlp_bias),
    )
    layer |= _list_linear_shapes(attention)
    dense, sparse = _list_linear_shapes(mlp), {} if config.experts is None else _list_expert_shapes(config.experts, D)
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config.vocab_size, D), "norm.weight": (D,)}
    for i in range(config.num_layers):
        has_experts = config.experts is not None and i in config.experts.layers
        shapes |= {f"layers.{i}.{name}": shape for name, shape in (layer | (sparse if has_experts else dense)).items()}
    return shapes | list_scale_shapes(config.quantized_linears, shapes)


def _list_linear_shapes(linears: Sequence[tuple[str, int, int, bool]]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of linear layers, each given as its name, outputs, inputs, and whether it has a bias."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, outputs, inputs, has_bias in linears:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if has_bias:
            shapes[f"{name}.bias"] = (outputs,)
    return shapes


def _list_expert_shapes(experts: ExpertsConfig, hidden_size: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a layer's router and experts, X [F, D] gate and up and X [D, F] down."""
    sizes = {"gate_up": (experts.intermediate_size, hidden_size), "down": (hidden_size, experts.intermediate_size)}
    shapes: dict[str, tuple[int, ...]] = {ROUTER: (experts.num_experts, hidden_size)}
    for matrix, size in sizes.items():
        for names in list_expert_names(matrix, experts.num_experts):
            shapes |= {f"{name}.weight": size for name in names}
    return shapes
