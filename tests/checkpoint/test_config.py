"""`config.json` against transformers' own reading of it."""

import itertools
import json
import math

import pytest
import torch
import transformers

from codescaler.checkpoint.compressed_tensors import make_quantization_config
from codescaler.checkpoint.config import list_tensor_shapes, parse_config
from codescaler.checkpoint.layouts import join_projections
from codescaler.errors import UnsupportedModel, WeightsError
from codescaler.types import RopeConfig

SIZES = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3}
NAMES = {"qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe", "qwen2": "Qwen2", "llama": "Llama", "mistral": "Mistral"}
NAMES |= {"phi3": "Phi3", "gemma2": "Gemma2", "gemma3_text": "Gemma3Text"}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
SLIDES = {"use_sliding_window": True, "sliding_window": 16}

CASES = {
    "qwen3-defaults": ("qwen3", {"num_attention_heads": 32}),
    "qwen3-null-kv": ("qwen3", {"num_attention_heads": 4, "num_key_value_heads": None, "head_dim": 8}),
    "qwen3-old": (
        "qwen3",
        {"num_attention_heads": 32, "rope_theta": 1e6, "sliding_window": None, "attention_bias": True}
        | {
            "torch_dtype": "bfloat16",
            "max_window_layers": 1,
            "pad_token_id": 7,
            "max_position_embeddings": 512,
        },
    ),
    "qwen3-linear": (
        "qwen3",
        {"num_attention_heads": 32, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    "qwen3_moe-defaults": ("qwen3_moe", {"num_attention_heads": 32}),
    "qwen3_moe-mixed": (
        "qwen3_moe",
        {"num_attention_heads": 8, "head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": True}
        | {"moe_intermediate_size": 24, "mlp_only_layers": [1], "attention_bias": True},
    ),
    "qwen3_moe-every-second": (
        "qwen3_moe",
        {
            "num_attention_heads": 8,
            "num_local_experts": 5,
            "num_experts_per_tok": 1,
            "decoder_sparse_step": 2,
            **SLIDES,
        },
    ),
    "qwen3_moe-no-experts": ("qwen3_moe", {"num_attention_heads": 8, "num_experts": 0}),
    "qwen2-defaults": ("qwen2", {"num_attention_heads": 32}),
    "qwen2-null-scaling": ("qwen2", {"num_attention_heads": 32, "rope_scaling": None, "rope_theta": 1e6}),
    "qwen2-slides": ("qwen2", {"num_attention_heads": 32, "max_window_layers": 1, **SLIDES}),
    "qwen2-slides-default": ("qwen2", {"num_attention_heads": 32, "use_sliding_window": True}),
    "qwen2-null-window": (
        "qwen2",
        {"num_attention_heads": 32, "use_sliding_window": True, "sliding_window": None},
    ),
    "qwen2-layer-types": (
        "qwen2",
        {"num_attention_heads": 32, "layer_types": ["sliding_attention", *["full_attention"] * 2], **SLIDES},
    ),
    "llama-defaults": ("llama", {"num_attention_heads": 4}),
    "llama-llama3": ("llama", {"num_attention_heads": 4, "rope_theta": 5e5, "rope_scaling": LLAMA3}),
    "llama-llama3-no-original": (
        "llama",
        {
            "num_attention_heads": 4,
            "rope_parameters": {k: LLAMA3[k] for k in list(LLAMA3)[:4]} | {"rope_theta": 9e4},
        },
    ),
    "llama-new": (
        "llama",
        {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "dtype": "float16"}
        | {"mlp_bias": True, "attention_bias": True, "rms_norm_eps": 1e-5},
    ),
    "gemma2-defaults": ("gemma2", {"num_attention_heads": 8}),
    "gemma2-other": (
        "gemma2",
        {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 144}
        | {
            "attn_logit_softcapping": None,
            "sliding_window": 12,
            "pad_token_id": None,
            "attention_bias": True,
        },
    ),
    "mistral-defaults": ("mistral", {"num_attention_heads": 8}),
    "mistral-old": (
        "mistral",
        {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "rope_theta": 1e6, "sliding_window": None},
    ),
    "mistral-window": ("mistral", {"num_attention_heads": 8, "sliding_window": 8, "attention_bias": True}),
    "phi3-defaults": ("phi3", {"num_attention_heads": 4, "vocab_size": 32064}),
    "phi3-window": ("phi3", {"num_attention_heads": 4, "sliding_window": 8, "rope_theta": 25e4, "pad_token_id": 3}),
    "gemma3-defaults": ("gemma3_text", {"num_attention_heads": 8}),
    "gemma3-minimal": ("gemma3_text", {"vocab_size": None, "sliding_window": 12, "hidden_size": 96}),
    "gemma3-old": (
        "gemma3_text",
        {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 144}
        | {"rope_theta": 2e6, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
        | {"sliding_window": 12, "sliding_window_pattern": 2},
    ),
    "gemma2-layer-types": (
        "gemma2",
        {"num_attention_heads": 8, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    ),
}


def raw_config(family, **changes):
    """A hand-written config.json: core sizes and what the case says, nothing else."""
    named = {"architectures": [f"{NAMES[family]}ForSequenceClassification"], "model_type": family}
    return named | SIZES | {"num_attention_heads": 8, "num_key_value_heads": 4} | changes


def list_their_shapes(module):
    """Names and shapes as in a file, where each expert has tensors of its own, and gate and up too."""
    for name, tensor in module.state_dict().items():
        at, is_expert, part = name.rpartition(".experts.")
        names = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}[part] if is_expert else ()
        if not is_expert:
            yield name, tuple(tensor.shape)
        for expert, number in itertools.product(names, range(len(tensor))):
            yield f"{at}.experts.{number}.{expert}.weight", (tensor.shape[1] // len(names), tensor.shape[2])


@pytest.mark.parametrize("dialect", ["as written", "as transformers 5 saves it"])
@pytest.mark.parametrize("case", CASES)
def test_reads_what_transformers_reads(case, dialect):
    family, settings = CASES[case]
    raw = {"architectures": [f"{NAMES[family]}ForSequenceClassification"], "model_type": family} | SIZES | settings
    raw = {key: value for key, value in raw.items() if key != "vocab_size" or value is not None}
    theirs = getattr(transformers, f"{NAMES[family]}Config").from_dict(dict(json.loads(json.dumps(raw))))
    if dialect != "as written":
        raw = json.loads(theirs.to_json_string(use_diff=False))
    ours = parse_config(raw, where="config.json")
    with torch.device("meta"):
        module = getattr(transformers, f"{NAMES[family]}Model")(theirs)
    attention = module.layers[0].self_attn

    assert ours.family == family
    assert ours.dtype == (str(theirs.dtype).removeprefix("torch.") if theirs.dtype is not None else "float32")
    assert ours.max_positions == theirs.max_position_embeddings
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.pad_token_id == theirs.pad_token_id
    assert (ours.num_heads, ours.num_kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
    assert ours.head_dim == attention.head_dim
    assert ours.attention_scale == attention.scaling
    assert ours.attention_softcap == getattr(attention, "attn_logit_softcapping", None)
    window = theirs.sliding_window if family in ("mistral", "phi3") else None
    assert ours.layer_windows == tuple(getattr(layer.self_attn, "sliding_window", window) for layer in module.layers)
    assert ours.embedding_scale == getattr(module.embed_tokens, "scalar_embed_scale", None)
    is_gemma = family.startswith("gemma")
    assert ours.activation == ("gelu_tanh" if is_gemma else "silu")
    assert ours.norm_weight_offset == (1.0 if is_gemma else 0.0)
    theirs_stored = {name: torch.empty(shape) for name, shape in list_their_shapes(module)}
    ours_stored = join_projections({name: torch.empty(shape) for name, shape in list_tensor_shapes(ours).items()}, ours)
    assert {n: t.shape for n, t in ours_stored.items()} == {n: t.shape for n, t in theirs_stored.items()}
    if ours.experts is not None:
        router = module.layers[max(ours.experts.layers)].mlp.gate
        assert (ours.experts.num_chosen, ours.experts.has_normalised_weights) == (router.top_k, router.norm_topk_prob)
    rope = theirs.rope_parameters
    if family == "gemma3_text":
        local, rope = rope["sliding_attention"], rope["full_attention"]
        assert (ours.local_rope.theta, ours.local_rope.kind) == (local["rope_theta"], local["rope_type"])
    assert (ours.rope.theta, ours.rope.kind) == (rope["rope_theta"], rope["rope_type"])
    if ours.rope.kind != "default":
        assert ours.rope.factor == rope["factor"]
    if ours.rope.kind == "llama3":
        assert ours.rope.low_freq_factor == rope["low_freq_factor"]
        assert ours.rope.high_freq_factor == rope["high_freq_factor"]
        assert ours.rope.original_max_positions == rope["original_max_position_embeddings"]


@pytest.mark.parametrize(
    ("architecture", "model_type", "family"),
    [
        ("Qwen3ForSequenceClassification", "qwen3", "qwen3"),
        ("Gemma2ForTokenClassification", "gemma2", "gemma2"),
        ("LlamaForCausalLM", None, "llama"),
        ("AceCodeRM", "qwen2", "qwen2"),
        ("AceCodeRM", "acecode_rm", "qwen2"),
        ("Qwen2ForCausalRM", None, "qwen2"),
        ("RewardModel", "mistral", "mistral"),
        ("MistralModel", None, "mistral"),
        ("INFORMForSequenceClassification", "llama", "llama"),
        ("Gemma3ForCausalLM", "gemma3_text", "gemma3_text"),
        ("InternLM2ForRewardModel", "internlm2", "llama"),
        (None, "qwen2", "qwen2"),
    ],
)
def test_family_comes_from_the_model_type_or_the_class(architecture, model_type, family):
    names = None if architecture is None else [architecture]
    raw = raw_config("qwen2", architectures=names, model_type=model_type, head_dim=8)
    config = parse_config(raw, where="config.json")
    assert (config.architecture, config.family, config.head) == (architecture or "", family, "none")


def test_text_config_of_a_composite_model():
    raw = raw_config("qwen3", head_dim=8, pad_token_id=5, dtype="bfloat16")
    text = {key: raw.pop(key) for key in (*SIZES, "num_attention_heads", "num_key_value_heads", "head_dim")}
    text |= {"architectures": None, "rope_theta": 3e4}
    config = parse_config(raw | {"text_config": text, "hidden_size": 1}, where="config.json")
    assert (config.hidden_size, config.pad_token_id, config.dtype) == (64, 5, "bfloat16")
    assert config.rope == RopeConfig(3e4)


@pytest.mark.parametrize("changes", [{"num_labels": 1}, {"id2label": {"0": "A", "1": "B"}}, {"attention_dropout": 0.5}])
def test_settings_without_effect_on_scores(changes):
    assert parse_config(raw_config("qwen3", **changes), where="") == parse_config(raw_config("qwen3"), where="")


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"]
)
@pytest.mark.parametrize("value", [None, "absent", 0, -1, 2**31, True, "64", 64.0, [64], 10**400])
def test_core_sizes_must_be_whole_numbers_in_range(key, value):
    raw = raw_config("qwen3", **{key: value})
    if value == "absent":
        del raw[key]
    with pytest.raises(WeightsError, match=rf"my/config\.json: {key} is .*; set it to a whole number"):
        parse_config(raw, where="my/config.json")


@pytest.mark.parametrize(
    ("family", "changes", "key"),
    [
        ("qwen3", {"num_hidden_layers": 10_001}, "num_hidden_layers"),
        ("qwen3", {"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ("qwen3", {"num_key_value_heads": 0}, "num_key_value_heads"),
        ("qwen3", {"head_dim": 7}, "head_dim is 7"),
        ("qwen2", {"num_attention_heads": 12}, "head_dim is nothing"),
        ("qwen3", {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ("qwen3", {"rms_norm_eps": math.nan}, "rms_norm_eps is nan"),
        ("qwen3", {"rope_theta": math.inf}, "rope_theta is inf"),
        ("qwen3", {"rope_theta": 10**400}, "rope_theta"),
        ("qwen3", {"rope_theta": 1e-299}, "rope_theta is 1e-299; set it to a number from 1e-30"),
        ("qwen3", {"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is nothing"),
        ("qwen3", {"rope_scaling": "linear"}, "rope_scaling"),
        ("llama", {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor"),
        ("llama", {"rope_scaling": LLAMA3 | {"high_freq_factor": None}}, "high_freq_factor"),
        ("qwen3", {"architectures": ["A", "B"]}, "architectures"),
        ("qwen3", {"architectures": [3]}, "architectures"),
        ("qwen3", {"model_type": 3}, "model_type"),
        ("qwen3", {"attention_bias": "no"}, "attention_bias"),
        ("qwen3", {"hidden_act": 3}, "hidden_act"),
        ("qwen3", {"pad_token_id": "0"}, "pad_token_id"),
        ("qwen3", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen3", {"layer_types": "full_attention"}, "layer_types"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "sliding_window is nothing"),
        ("qwen3", SLIDES | {"sliding_window": 0}, "sliding_window is 0"),
        ("gemma2", {"sliding_window": None}, "sliding_window is None"),
        ("gemma2", {"attn_logit_softcapping": 0}, "attn_logit_softcapping is 0"),
        ("gemma2", {"attn_logit_softcapping": 1e299}, "attn_logit_softcapping"),
        ("gemma2", {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar is -1"),
        ("qwen3", {"text_config": 3}, "text_config"),
        ("qwen3_moe", {"num_experts": -1}, "num_experts is -1"),
        ("qwen3_moe", {"num_local_experts": 2**30}, "num_local_experts is 1073741824; set it to at most 100000"),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 5}, "at most the 4 experts"),
        ("qwen3_moe", {"mlp_only_layers": "1"}, "mlp_only_layers"),
        ("qwen3_moe", {"mlp_only_layers": [True]}, "mlp_only_layers"),
        ("qwen3_moe", {"moe_intermediate_size": 0}, "moe_intermediate_size is 0"),
        ("qwen3_moe", {"norm_topk_prob": 1}, "norm_topk_prob is 1"),
    ],
)
def test_values_that_make_no_sense(family, changes, key):
    with pytest.raises(WeightsError, match=key):
        parse_config(raw_config(family, **changes), where="config.json")


@pytest.mark.parametrize(
    ("family", "changes", "seen"),
    [
        ("qwen3", {"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM asks for model_type 'mistral'"),
        ("qwen3", {"model_type": "llama"}, "'llama'"),
        ("qwen3", {"model_type": "qwen3_moe"}, "'qwen3_moe'"),
        ("qwen3", {"hidden_act": "relu"}, "'relu'"),
        ("gemma2", {"hidden_activation": "gelu"}, "'gelu'"),
        ("qwen3", {"torch_dtype": "float64"}, "'float64'"),
        ("qwen3", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ("qwen3_moe", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ("qwen3_moe", {"quantization_config": make_quantization_config({}, 3)}, "quantised experts"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        (
            "qwen3",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ("qwen3", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "one RoPE per layer kind"),
        ("qwen3", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ("llama", {"rope_scaling": {"type": "longrope", "factor": 4.0}}, "'longrope'"),
        ("qwen3", {"architectures": None, "model_type": None}, "architecture is '' and the model_type ''"),
        ("qwen3", {"architectures": ["Qwen3ForQuestionAnswering"]}, "Qwen3ForQuestionAnswering"),
        ("llama", {"architectures": ["LlamaBidirectionalModel"]}, "LlamaBidirectionalModel"),
        # The architecture comes first: it says more than a setting.
        (
            "qwen3",
            {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "partial_rotary_factor": 0.25},
            "'qwen3_5_text' is not computed: its layers of linear attention",
        ),
        (
            "qwen3",
            {"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "partial_rotary_factor": 0.25},
            "'qwen3_next' is not computed: its layers of linear attention",
        ),
        ("qwen3", {"architectures": ["GlmForCausalLM"], "model_type": "glm", "partial_rotary_factor": 0.5}, "'glm'"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("qwen3", {"is_causal": False}, "is_causal is False"),
        (
            "qwen3",
            {"layer_types": ["full_attention", "full_attention", "linear_attention"]},
            "'linear_attention'",
        ),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused(family, changes, seen):
    with pytest.raises(UnsupportedModel, match=seen):
        parse_config(raw_config(family, **changes), where="config.json")


def make_phi3(**rope):
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    return raw_config("phi3", **sizes, rope_scaling={"type": "longrope", **rope})


def test_longrope_holds_up_to_the_original_positions():
    raw = make_phi3(short_factor=[1.0, 1.5], long_factor=[2.0, 9.0]) | {"original_max_position_embeddings": 256}
    config = parse_config(raw | {"partial_rotary_factor": 0.25}, where="config.json")
    assert (config.max_positions, config.rope.kind, config.rope.rotary_dims) == (256, "longrope", 4)
    assert config.rope.factors == (1.0, 1.5)
    assert config.rope.table_scale == math.sqrt(1 + math.log(16) / math.log(256))


@pytest.mark.parametrize("factors", [None, "ab", [1.0], [1.0] * 9, [True] * 8, [0.0] * 8, [math.nan] * 8])
def test_longrope_needs_a_factor_for_each_pair(factors):
    with pytest.raises(WeightsError, match="short_factor"):
        parse_config(make_phi3(short_factor=factors), where="config.json")


@pytest.mark.parametrize("factor", [0, 0.1, 1.5, 1e20, "a"])
def test_partial_rotary_factor_must_leave_pairs(factor):
    raw = raw_config("phi3", partial_rotary_factor=factor)
    with pytest.raises(WeightsError, match="partial_rotary_factor"):
        parse_config(raw, where="config.json")
