"""What operations compute whatever the tensors: sizes of heads, what attention is, and tables of rotary positions.

A record travels whole from the decoder to a kernel's launch. A new argument of attention is a field here.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Heads:
    """How a fused q|k|v row of width E splits into heads."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return self.num_heads // self.num_kv_heads

    @property
    def q_width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        """E."""
        return self.q_width + 2 * self.kv_width


@dataclass(frozen=True)
class AttentionSpec:
    """One layer's attention, but for its tensors; `ops.reference.tree_attention` has the formula.

    `scale` multiplies logits, `softcap` bounds them. `window` is how many positions a query may look back, its own
    included.
    """

    heads: Heads
    scale: float
    softcap: float | None = None
    window: int | None = None


class Routing(NamedTuple):
    """Each token's experts, the one of largest weight first, and their weights. Dtypes: int32, float32.

    Shapes: [T, C].
    """

    experts: Tensor
    weights: Tensor


class RotaryTables(NamedTuple):
    """Cosine and sine of each position's angles. Shapes: [P, H / 2], P above every position. Dtypes: float32."""

    cos: Tensor
    sin: Tensor

    def invert(self) -> "RotaryTables":
        """Returns the tables that rotate back."""
        return RotaryTables(self.cos, -self.sin)
