"""The models and token lists that parity is proved on: every family, head and quirk, small and random.

A case says what to save; `save` lets transformers and PEFT write it. Nothing here runs a model.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from codescaler.testing import (
    edit_json,
    edit_tensors,
    save_as_internlm2,
    save_random_checkpoint,
    save_random_lora,
    split_value_head,
)

TokenLists = list[list[int]]

VOCAB = 1000
PAD, FIRST_WORD = 0, 3  # ids below FIRST_WORD are special, and drawn only where a case means them

# The head's name in the table, by class name.
HEADS = {
    "SequenceClassification": "sequence",
    "TokenClassification": "token",
    "AceCodeRM": "value",
    "CausalLM": "none",
    "RewardModel": "openrlhf",
    "EurusRewardModel": "regress",
    "Qwen2ForRewardModel": "mlp",
    "INFORMForSequenceClassification": "mlp",
    "GRewardModel": "mlp",
    "AtheneForSequenceClassification": "appended",
}
REWARD_TOKEN = 997  # what appended-token heads are read at


def make_mixed() -> TokenLists:
    """Lengths 1 to 700: seven candidates on a prompt of 300, some branching again, and unshared ones.

    The prompt itself and a second copy of a candidate are scored too.
    """
    draw = _draw_words(0)
    prompt = draw(300)
    candidates = [prompt + draw(length) for length in (1, 63, 64, 130, 400)]
    branches = [candidates[-1][:500] + draw(length) for length in (20, 77)]
    alone = [draw(length) for length in (1, 2, 17, 128, 333)]
    return [candidates[1], *alone, prompt, *branches, *candidates]


def make_beginnings() -> TokenLists:
    """Beginnings of one sequence of 700: each length to 130, then those around each edge of a key block.

    Every one ends a node of the tree, most of a single token.
    """
    sequence = _draw_words(1)(700)
    edges = [length for edge in range(192, 700, 64) for length in (edge - 1, edge, edge + 1)]
    return [sequence[:length] for length in (*range(1, 131), *edges, 700)]


def make_long() -> TokenLists:
    """One sequence of 4,000 tokens, others that leave it on the way, most of them early, and a short one.

    Enough of them that a root mean square says something: that of 6 was 20% larger on one machine than on another.
    """
    draw = _draw_words(2)
    sequence = draw(4000)
    leaving = (*range(100, 700, 35), 700, 1500, 2500, 3300)
    return [draw(50), sequence, *(sequence[:shared] + draw(30) for shared in leaving)]


def make_padded() -> TokenLists:
    """Pad tokens at the end, inside, at the front and alone; several mean the same pooled token.

    More sequences with one at the end stand behind them: of a few numbers the errors' mean square is chance.
    """
    draw = _draw_words(3)
    prompt, tail = draw(70), draw(40)
    inside = [*prompt, PAD, PAD, *tail]
    return [
        prompt,
        [*prompt, PAD],
        [*prompt, *[PAD] * 30],
        inside,
        [*inside, PAD],
        [*[PAD] * 9, *prompt, *tail],
        [PAD],
        [PAD] * 70,
        *([*draw(length), PAD] for length in range(20, 120, 10)),
    ]


def _draw_words(seed: int) -> Callable[[int], list[int]]:
    generator = random.Random(seed)
    return lambda length: [generator.randrange(FIRST_WORD, VOCAB) for _ in range(length)]


@dataclass(frozen=True)
class Case:
    """One checkpoint and the token lists it scores.

    `settings` go to the family's configuration class; `config_edits` then change the saved config.json, None
    removing a key. With `lora` the checkpoint is the base of an adapter with these settings. `rows` are the tokens
    whose rows of the output layer are the head. `form` is how a folder differs from what transformers writes:
    "llamafactory" or "internlm2".
    """

    family: str
    architecture: str
    special: str
    settings: Mapping[str, Any]
    lists: Callable[[], TokenLists] = make_mixed
    config_edits: Mapping[str, Any] = field(default_factory=dict)
    max_shard_size: str = "5GB"
    lora: Mapping[str, Any] | None = None
    rows: tuple[int, ...] = ()
    form: str = ""

    @property
    def head(self) -> str:
        # PEFT puts a new score head on a causal LM.
        return "rows" if self.rows else "sequence" if self.lora is not None else HEADS[self.architecture]

    @property
    def appended(self) -> list[int]:
        """The tokens that the model's own code puts behind a text."""
        return [REWARD_TOKEN] if self.head == "appended" else []

    @property
    def name(self) -> str:
        return f"{self.family} {self.head}: {self.special}"

    def locate_base(self, folder: Path) -> Path:
        """Where in `folder` the checkpoint lies; with `lora`, its base model."""
        return folder / "base"

    def locate_model(self, folder: Path) -> Path:
        """Where in `folder` the model lies that the engine loads."""
        if self.form == "internlm2":
            return folder / "internlm2"
        return self.locate_base(folder) if self.lora is None else folder / "adapter"


def save(case: Case, folder: Path) -> None:
    """Writes the case's checkpoint, and its adapter if it has one, below `folder`.

    Weights are bfloat16 numbers, so that float32 and bfloat16 runs hold the same ones.
    """
    base = case.locate_base(folder)
    save_random_checkpoint(
        base,
        case.family,
        case.architecture,
        dtype=torch.bfloat16,
        max_shard_size=case.max_shard_size,
        vocab_size=VOCAB,
        **case.settings,
    )
    for path in base.glob("*.safetensors"):
        edit_tensors(path, _make_context_count)
    edit_json(base / "config.json", **case.config_edits)
    if case.form == "llamafactory":
        split_value_head(base)
    if case.form == "internlm2":
        save_as_internlm2(base, case.locate_model(folder), REWARD_TOKEN)
    elif case.appended:
        edit_json(base / "config.json", reward_token_id=REWARD_TOKEN)
    if case.lora is not None:
        save_random_lora(case.locate_model(folder), base, **case.lora)


def _make_context_count(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Lets the tokens before the last weigh in a score, so that an error in attention shows.

    Doubled queries attend to a few keys, not to the mean of all; and Gemma's embeddings, which it multiplies
    by the square root of the width, no longer drown what its layers add. Powers of two: exact in any dtype.
    """
    names = " ".join(tensors)
    doubled = "q_norm" if "q_norm" in names else "q_proj"
    is_gemma = "pre_feedforward_layernorm" in names

    def choose_factor(name: str) -> float | torch.Tensor:
        if "qkv_proj" in name:  # queries come first
            is_query = torch.arange(len(tensors[name])) < tensors[name.replace("qkv_proj", "o_proj")].shape[1]
            return torch.where(is_query, 2, 1).unsqueeze(1)
        return 2.0 if doubled in name else 1 / 16 if is_gemma and "embed_tokens" in name else 1.0

    return {name: tensor * choose_factor(name) for name, tensor in tensors.items()}


def _shape(width: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    """Sizes of a model whose head dim is width / heads unless said otherwise."""
    return {
        "hidden_size": width,
        "intermediate_size": 3 * width // 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width // heads,
        "max_position_embeddings": 8192,
    } | more


def _make_rope(theta: float, **scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta} | scaling}


_SEQUENCE, _TOKEN, _VALUE, _NONE, _OPENRLHF, _EURUS, _QWEN2_RM, _INFORM, _GRM, _ATHENE = HEADS

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}

# What transformers 4 wrote: RoPE at the top level, `torch_dtype`, no head_dim where it is width / heads.
_OLD_DIALECT = {
    "dtype": None,
    "torch_dtype": "bfloat16",
    "head_dim": None,
    "layer_types": None,
    "rope_parameters": None,
    "transformers_version": "4.45.0",
}

_SMALL = _shape(256, 4, 2)

_QWEN3 = (
    Case("qwen3", _SEQUENCE, "width 1024, GQA 2, head_dim 128", _shape(1024, 8, 4) | _make_rope(1e6)),
    Case("qwen3", _SEQUENCE, "width 896, GQA 8, head_dim 64, qkv and o bias",
         _shape(896, 8, 1, head_dim=64, attention_bias=True)),
    Case("qwen3", _SEQUENCE, "width 448, GQA 1, head_dim 256", _shape(448, 2, 2, head_dim=256) | _make_rope(1e6)),
    Case("qwen3", _SEQUENCE, "every length to 130, then block edges",
         _shape(64, 4, 2, head_dim=64), make_beginnings),
    Case("qwen3", _SEQUENCE, "4,000 tokens", _shape(448, 7, 1, head_dim=128) | _make_rope(1e6), make_long),
    Case("qwen3", _SEQUENCE, "sharded index", _SMALL, max_shard_size="500KB"),
    Case("qwen3", _SEQUENCE, "pad tokens", _SMALL, make_padded),
    Case("qwen3", _SEQUENCE, "pad == eos", _SMALL | {"eos_token_id": PAD}, make_padded),
    Case("qwen3", _SEQUENCE, "no pad id", _SMALL | {"pad_token_id": None}, make_padded),
    Case("qwen3", _SEQUENCE, "window 100 from layer 1 on",
         _SMALL | {"use_sliding_window": True, "sliding_window": 100, "max_window_layers": 1}),
    Case("qwen3", _SEQUENCE, "LoRA everywhere, rank and alpha patterns", _SMALL, lora={
        "target_modules": "all-linear",
        "rank_pattern": {"v_proj": 4},
        "alpha_pattern": {"layers.1.mlp.up_proj": 3},
    }),
    Case("qwen3", _TOKEN, "width 576, GQA 3", _shape(576, 9, 3)),
    Case("qwen3", _TOKEN, "pad tokens are scored", _SMALL, make_padded),
    Case("qwen3", _NONE, "features, tied", _SMALL | {"tie_word_embeddings": True}),
)  # fmt: skip

_EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 96}

_QWEN3_MOE = (
    Case("qwen3_moe", _SEQUENCE, "width 512, GQA 8, 4 of 32 experts",
         _shape(512, 8, 1, **_EXPERTS, head_dim=128) | {"num_experts": 32, "norm_topk_prob": True} | _make_rope(1e6)),
    Case("qwen3_moe", _SEQUENCE, "1 of 16 experts, weights not normalised",
         _SMALL | _EXPERTS | {"num_experts_per_tok": 1}),
    Case("qwen3_moe", _SEQUENCE, "layer 1 dense, pad tokens",
         _SMALL | _EXPERTS | {"mlp_only_layers": [1], "norm_topk_prob": True}, make_padded),
    Case("qwen3_moe", _SEQUENCE, "every length to 130, then block edges", _SMALL | _EXPERTS, make_beginnings),
    Case("qwen3_moe", _SEQUENCE, "window 100, sharded index",
         _SMALL | _EXPERTS | {"use_sliding_window": True, "sliding_window": 100}, max_shard_size="500KB"),
    Case("qwen3_moe", _TOKEN, "experts in every second layer, biases",
         _SMALL | _EXPERTS | {"decoder_sparse_step": 2, "attention_bias": True}),
    Case("qwen3_moe", _NONE, "features", _SMALL | _EXPERTS),
)  # fmt: skip

_QWEN2 = (
    Case("qwen2", _SEQUENCE, "width 896, GQA 7, head_dim 64", _shape(896, 14, 2) | _make_rope(1e6)),
    Case("qwen2", _SEQUENCE, "width 448, old config dialect", _shape(448, 7, 1),
         config_edits=_OLD_DIALECT | {"rope_theta": 1e6}),
    Case("qwen2", _TOKEN, "window 64 from layer 1 on",
         _SMALL | {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}),
    Case("qwen2", _VALUE, "AceCodeRM, width 1024, untied, sharded",
         _shape(1024, 8, 4, tie_word_embeddings=False), max_shard_size="5MB"),
    Case("qwen2", _VALUE, "AceCodeRM, tied, eps 0.01, old config dialect",
         _SMALL | {"tie_word_embeddings": True, "rms_norm_eps": 0.01},
         config_edits=_OLD_DIALECT | {"rope_theta": 1e6}),
    Case("qwen2", _VALUE, "pad tokens are scored", _SMALL, make_padded),
    Case("qwen2", _NONE, "features, untied", _SMALL | {"tie_word_embeddings": False}),
)  # fmt: skip

_LLAMA = (
    Case("llama", _SEQUENCE, "width 576, GQA 3", _shape(576, 9, 3)),
    Case("llama", _SEQUENCE, "llama3 RoPE, 4,000 tokens", _shape(512, 8, 2) | _make_rope(5e5, **_LLAMA3), make_long),
    Case("llama", _SEQUENCE, "llama3 RoPE, old config dialect", _SMALL,
         config_edits=_OLD_DIALECT | {"rope_theta": 5e5, "rope_scaling": _LLAMA3}),
    Case("llama", _SEQUENCE, "linear RoPE, pad tokens",
         _SMALL | _make_rope(1e4, rope_type="linear", factor=4.0), make_padded),
    Case("llama", _NONE, "rank-stabilised LoRA on a causal LM", _SMALL,
         lora={"use_rslora": True, "r": 4}),
    Case("llama", _TOKEN, "biases everywhere, GQA 1", _shape(512, 8, 8, attention_bias=True, mlp_bias=True)),
    Case("llama", _VALUE, "value head on LlamaForCausalLM", _SMALL,
         config_edits={"architectures": ["LlamaForCausalLM"]}),
    Case("llama", _NONE, "features, tied", _SMALL | {"tie_word_embeddings": True}),
)  # fmt: skip

_GEMMA2_SMALL = _SMALL | {"query_pre_attn_scalar": 48, "attn_logit_softcapping": 5.0, "sliding_window": 64}

_GEMMA2 = (
    Case("gemma2", _SEQUENCE, "width 1024, GQA 2, head_dim 256, window 64 in prompt",
         _GEMMA2_SMALL | _shape(1024, 4, 2) | {"query_pre_attn_scalar": 144}),
    Case("gemma2", _SEQUENCE, "width 576, GQA 3, window 100, soft-cap 50",
         _shape(576, 9, 3, query_pre_attn_scalar=64, sliding_window=100)),
    Case("gemma2", _SEQUENCE, "no soft-cap", _GEMMA2_SMALL | {"attn_logit_softcapping": None}),
    Case("gemma2", _SEQUENCE, "old config dialect", _GEMMA2_SMALL,
         config_edits=_OLD_DIALECT | {"head_dim": 64, "rope_theta": 2e4}),
    Case("gemma2", _SEQUENCE, "every length to 130, then block edges",
         _GEMMA2_SMALL | {"hidden_size": 64}, make_beginnings),
    Case("gemma2", _SEQUENCE, "pad tokens", _GEMMA2_SMALL, make_padded),
    Case("gemma2", _SEQUENCE, "no pad id", _GEMMA2_SMALL | {"pad_token_id": None}, make_padded),
    Case("gemma2", _TOKEN, "window 64", _GEMMA2_SMALL),
    Case("gemma2", _NONE, "features", _GEMMA2_SMALL),
)  # fmt: skip

_MISTRAL = (
    Case("mistral", _SEQUENCE, "width 576, GQA 3, window 64 in prompt", _shape(576, 9, 3, sliding_window=64)),
    Case("mistral", _SEQUENCE, "no window, old config dialect, pad tokens", _SMALL | {"sliding_window": None},
         make_padded, config_edits=_OLD_DIALECT | {"rope_theta": 1e6}),
    Case("mistral", _NONE, "features", _SMALL | {"sliding_window": 100}),
)  # fmt: skip

_GEMMA3_SMALL = _SMALL | {"query_pre_attn_scalar": 48, "sliding_window": 64, "num_hidden_layers": 6}
_GEMMA3_OLD = {
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "sliding_window_pattern": 6,
}

_GEMMA3 = (
    Case("gemma3_text", _SEQUENCE, "width 576, GQA 3, head_dim 128, windows and one full layer",
         _GEMMA3_SMALL | _shape(576, 9, 3, head_dim=128)),
    Case("gemma3_text", _SEQUENCE, "linear RoPE of full layers, old config dialect", _GEMMA3_SMALL,
         config_edits=_OLD_DIALECT | {"head_dim": 64} | _GEMMA3_OLD),
    Case("gemma3_text", _SEQUENCE, "pad tokens", _GEMMA3_SMALL, make_padded),
    Case("gemma3_text", _NONE, "features", _GEMMA3_SMALL),
)  # fmt: skip

_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0 + 0.05 * i for i in range(24)],
    "long_factor": [2.0 + 0.5 * i for i in range(24)],
    "original_max_position_embeddings": 1024,
}

_PHI3 = (
    Case("phi3", _SEQUENCE, "width 576, GQA 3, theta 25e4", _shape(576, 9, 3) | _make_rope(25e4)),
    Case("phi3", _SEQUENCE, "window 64, pad tokens", _SMALL | {"sliding_window": 64}, make_padded),
    Case("phi3", _SEQUENCE, "longrope, 3/4 of a head turns", _SMALL | {"rope_parameters": _LONGROPE}),
    Case("phi3", _NONE, "features, half of a head turns", _SMALL | _make_rope(1e4, partial_rotary_factor=0.5)),
)  # fmt: skip

_HEADS = (
    Case("llama", _OPENRLHF, "value_head.weight in class RewardModel", _SMALL),
    Case("mistral", _EURUS, "regression_head.weight", _SMALL),
    Case("qwen2", _QWEN2_RM, "score.0 and score.2", _shape(896, 14, 2)),
    Case("llama", _INFORM, "score.0 and score.2 of INFORM", _SMALL),
    Case("llama", _GRM, "v_head.summary.0 and .2", _SMALL),
    Case("llama", _ATHENE, "token after the text", _SMALL),
    Case("llama", _ATHENE, "InternLM2: fused wqkv, its own names", _SMALL | _make_rope(1e6), form="internlm2"),
    Case("llama", _NONE, "row 0 of lm_head", _SMALL, rows=(0,)),
    Case("qwen3", _NONE, "one row of a tied embedding minus another", _SMALL | {"tie_word_embeddings": True},
         rows=(7, 9)),
    Case("qwen2", _VALUE, "LLaMA-Factory: head in a file of its own", _SMALL, form="llamafactory",
         config_edits={"architectures": ["Qwen2ForCausalLM"]}),
    Case("qwen3", _SEQUENCE, "score.weight under CausalLM", _SMALL,
         config_edits={"architectures": ["Qwen3ForCausalLM"]}),
    Case("qwen3", _NONE, "LoRA without a task", _SMALL, lora={"task_type": None, "modules_to_save": ["score"]}),
    Case("qwen3", _NONE, "LoRA for features, 8 tokens more, embedding written twice", _SMALL, lora={
        "task_type": "FEATURE_EXTRACTION",
        "modules_to_save": ["score", "embed_tokens"],
        "vocab_size": VOCAB + 8,
    }),
)  # fmt: skip

CASES = (*_QWEN3, *_QWEN3_MOE, *_QWEN2, *_LLAMA, *_GEMMA2, *_MISTRAL, *_GEMMA3, *_PHI3, *_HEADS)
