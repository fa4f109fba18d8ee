"""Frozen records that cross layers. Standard library only: no tensor, no array, no I/O."""

from dataclasses import dataclass
from typing import Literal

HeadKind = Literal["sequence_classification", "token_classification", "value_head", "none"]
RopeKind = Literal["default", "linear", "llama3"]
Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: base `theta` and how its frequencies are rescaled.

    `linear` divides every frequency by `factor`; `llama3` divides the low ones and blends between
    `low_freq_factor` and `high_freq_factor` (wavelengths counted against `original_max_positions`).
    """

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True)
class ModelConfig:
    """What the decoder computes, in one dialect, whatever dialect `config.json` was written in.

    Sizes count elements. `norm_weight_offset` is 1 where the file stores `w` of a `(1 + w)` norm.
    `layer_windows[i]` is the number of positions layer i may look back, the token itself included;
    None means all of them. `dtype` is the dtype the checkpoint was saved in.
    """

    family: str
    architecture: str
    head: HeadKind
    dtype: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float
    rope: RopeConfig
    activation: Activation
    attention_scale: float
    layer_windows: tuple[int | None, ...]
    attention_softcap: float | None = None
    embedding_scale: float | None = None
    norm_weight_offset: float = 0.0
    has_qk_norm: bool = False
    has_qkv_bias: bool = False
    has_o_bias: bool = False
    has_mlp_bias: bool = False
    has_post_norms: bool = False
    pad_token_id: int | None = None


@dataclass(frozen=True)
class RankedCandidate:
    """One candidate program after ranking.

    `index` is its place in the list that was ranked, `code` the program that was scored. `score` and `code` are None
    where nothing could be extracted.
    """

    index: int
    score: float | None
    is_valid: bool
    code: str | None
