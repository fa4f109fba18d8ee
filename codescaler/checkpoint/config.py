"""`config.json` of the supported families, in any dialect, to one `ModelConfig`.

A family is a row of `FAMILIES`; its defaults are those of transformers 5.23. This module knows no tensor and
opens no file: the caller has parsed the JSON.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from codescaler.checkpoint.compressed_tensors import list_scale_shapes, read_int8_linears
from codescaler.checkpoint.rope import count_rotary_dims, read_layer_ropes, read_rope
from codescaler.errors import UnsupportedModel, WeightsError
from codescaler.io.json import Fields
from codescaler.model.projections import ROUTER, list_expert_names
from codescaler.types import Activation, ExpertsConfig, ModelConfig

DTYPES = ("float32", "bfloat16", "float16")

_MAX_LAYERS = 10_000
_MAX_EXPERTS = 100_000  # of all layers; Qwen3-235B-A22B has 12,032
_DEFAULT_WINDOW = 4096

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


def _list_full_attention(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    return (None,) * num_layers


def _list_qwen_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Layers from `max_window_layers` on slide, but only if `use_sliding_window` says so."""
    window = _read_sliding_window(fields) if fields.read_flag("use_sliding_window") else None
    first = num_layers if window is None else fields.read_size("max_window_layers", 28, low=0)
    return _list_layer_windows(fields, window, [i >= first for i in range(num_layers)])


def _list_qwen3_moe_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """All layers slide, but only if `use_sliding_window` says so."""
    return (_read_sliding_window(fields) if fields.read_flag("use_sliding_window") else None,) * num_layers


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


def _list_mistral_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Every layer slides, if there is a window."""
    window = _read_sliding_window(fields)
    return (window,) * num_layers


def _list_phi3_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Every layer slides, if the file sets a window."""
    return (None if fields.values.get("sliding_window") is None else fields.read_size("sliding_window"),) * num_layers


def _list_gemma3_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """All but every sixth layer slide, or all but every `sliding_window_pattern`-th."""
    pattern = fields.read_size("sliding_window_pattern", 6)
    slides = [bool((i + 1) % pattern) for i in range(num_layers)]
    return _list_layer_windows(fields, _read_sliding_window(fields), slides)


def _read_gemma2_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    """What Gemma has; the embedding scale is exact here, the decoder rounds it to the weight dtype."""
    has_softcap = not fields.is_null("attn_logit_softcapping")
    return {
        "attention_scale": fields.read_number("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": fields.read_number("attn_logit_softcapping", 50.0) if has_softcap else None,
        "embedding_scale": math.sqrt(config.hidden_size),
        "norm_weight_offset": 1.0,
        "has_post_norms": True,
    }


def _read_gemma3_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    """Gemma2's but for the soft-cap, which transformers leaves out; and a RoPE for each kind of layer."""
    rope, local_rope = read_layer_ropes(fields, config.max_positions, 1e6, 1e4)
    return _read_gemma2_extras(fields, config) | {"attention_softcap": None, "rope": rope, "local_rope": local_rope}


def _read_phi3_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    """Fused projections, a head of which only a part may turn, and no more positions than its RoPE is one for."""
    dims, rope = count_rotary_dims(fields, config.head_dim), config.rope
    rope = replace(rope, rotary_dims=dims if dims < config.head_dim else None)
    positions = rope.original_max_positions if rope.kind == "longrope" else config.max_positions
    return {"layout": "phi3", "rope": rope, "max_positions": min(positions, config.max_positions)}


def _read_internlm2_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    """Llama, but for names and a fused projection; `bias` is its own name of `attention_bias`."""
    has_bias = fields.read_flag("bias")
    return {"family": "llama", "layout": "internlm2", "has_qkv_bias": has_bias, "has_o_bias": has_bias}


def _read_qwen3_moe_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    """Layers have experts by `decoder_sparse_step`, but those of `mlp_only_layers`."""
    if fields.values.get("quantization_config") is not None:
        raise UnsupportedModel(
            f"{fields.where}: quantised experts are not computed. Give the model as it was before it was quantised."
        )
    num_layers = fields.read_size("num_hidden_layers", high=_MAX_LAYERS)
    # transformers 5 writes the other name, and reads both.
    key = "num_experts" if fields.values.get("num_local_experts") is None else "num_local_experts"
    num_experts = fields.read_size(key, 128, low=0)
    num_chosen, step = fields.read_size("num_experts_per_tok", 8), fields.read_size("decoder_sparse_step", 1)
    dense = fields.values.get("mlp_only_layers") or []
    if not isinstance(dense, Sequence) or isinstance(dense, str) or not all(type(layer) is int for layer in dense):
        raise fields.make_error("mlp_only_layers", "list indices of layers")
    layers = frozenset(i for i in range(num_layers) if (i + 1) % step == 0).difference(dense)
    if not num_experts or not layers:
        return {}
    if num_experts * num_layers > _MAX_EXPERTS:
        raise fields.make_error(key, f"set it to at most {_MAX_EXPERTS} experts in all layers")
    if num_chosen > num_experts:
        raise fields.make_error("num_experts_per_tok", f"set it to at most the {num_experts} experts of a layer")
    width = fields.read_size("moe_intermediate_size", 768)
    return {"experts": ExpertsConfig(num_experts, num_chosen, width, fields.read_flag("norm_topk_prob"), layers)}


def _read_no_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """How one family differs, and the defaults its transformers class fills in.

    `class_names` are what its classes begin with, before For or Model; the first is what is written.
    `head_dim` None means hidden_size / num_attention_heads; `num_kv_heads` None means one per query head.
    `has_fixed_bias` is Qwen2's way: q, k and v always have a bias, o never, whatever `attention_bias` says.
    `has_layer_ropes`: the extras read its RoPE. `extras` are read last, and replace what the keys of all families say.
    """

    class_names: tuple[str, ...]
    max_positions: int
    layer_windows: Callable[[Fields, int], tuple[int | None, ...]]
    vocab_size: int | None = None
    num_heads: int | None = None
    head_dim: int | None = None
    num_kv_heads: int | None = None
    activation_key: str = "hidden_act"
    activation: str = "silu"
    pad_token_id: int | None = None
    norm_eps: float = 1e-6
    has_qk_norm: bool = False
    has_fixed_bias: bool = False
    reads_mlp_bias: bool = False
    reads_attention_bias: bool = True
    has_layer_ropes: bool = False
    has_partial_rotary: bool = False
    is_tied: bool = False
    extras: Callable[[Fields, ModelConfig], dict[str, Any]] = _read_no_extras


_GEMMA: dict[str, Any] = {
    "head_dim": 256,
    "num_kv_heads": 4,
    "activation_key": "hidden_activation",
    "activation": "gelu_pytorch_tanh",
    "pad_token_id": 0,
    "is_tied": True,
}
# By model_type.
FAMILIES = {
    "qwen3": Family(("Qwen3",), 32768, _list_qwen_windows, head_dim=128, num_kv_heads=32, has_qk_norm=True),
    "qwen3_moe": Family(
        ("Qwen3Moe",),
        32768,
        _list_qwen3_moe_windows,
        num_kv_heads=4,
        has_qk_norm=True,
        extras=_read_qwen3_moe_extras,
    ),
    "qwen2": Family(("Qwen2",), 32768, _list_qwen_windows, num_kv_heads=32, has_fixed_bias=True),
    "llama": Family(("Llama",), 2048, _list_full_attention, reads_mlp_bias=True),
    "mistral": Family(("Mistral",), 131072, _list_mistral_windows, num_kv_heads=8, reads_attention_bias=False),
    "phi3": Family(
        ("Phi3",),
        4096,
        _list_phi3_windows,
        pad_token_id=32000,
        norm_eps=1e-5,
        reads_attention_bias=False,
        has_partial_rotary=True,
        extras=_read_phi3_extras,
    ),
    "internlm2": Family(("InternLM2",), 2048, _list_full_attention, extras=_read_internlm2_extras),
    "gemma2": Family(("Gemma2",), 8192, _list_gemma2_windows, extras=_read_gemma2_extras, **_GEMMA),
    "gemma3_text": Family(
        ("Gemma3Text", "Gemma3"),
        131072,
        _list_gemma3_windows,
        vocab_size=262_208,
        num_heads=8,
        has_qk_norm=True,
        has_layer_ropes=True,
        extras=_read_gemma3_extras,
        **_GEMMA,
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
    fields = select_text_fields(raw, where)
    architecture, name = _read_architecture(fields)
    family = FAMILIES[name]
    _refuse_what_changes_the_numbers(fields, _NEUTRAL if family.has_partial_rotary else _NEUTRAL | _PARTIAL_ROTARY)
    num_layers = fields.read_size("num_hidden_layers", high=_MAX_LAYERS)
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
        int8_linears=read_int8_linears(fields, num_layers),
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
                    "Use a checkpoint without it, or score this one with transformers."
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
    return shapes | list_scale_shapes(config.int8_linears, shapes)


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
