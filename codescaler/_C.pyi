from torch import Tensor

from codescaler.ops.spec import AttentionSpec, Heads, RotaryTables

HAS_OPENMP: bool
IS_INTEL: bool
TILE_ROWS: int

def supported_isas() -> list[str]: ...
def pairwise_loss(
    scores: Tensor,
    labels: Tensor,
    group_offsets: Tensor,
    margins: Tensor | None,
    center_coefficient: float,
    gradient: Tensor,
) -> float: ...

class AttentionPlan:
    num_rows: int
    def __init__(self, num_tokens: int, block_tokens: Tensor, node_blocks: Tensor, tiles: Tensor) -> None: ...

class KernelSet:
    isa: str
    def __init__(self, isa: str) -> None: ...
    def rms_norm(
        self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None, y: Tensor, threads: int
    ) -> None: ...
    def qk_norm_rope(
        self,
        qkv: Tensor,
        heads: Heads,
        positions: Tensor,
        rotary: RotaryTables,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        eps: float,
        threads: int,
    ) -> None: ...
    def glu(self, gate_up: Tensor, is_gelu: bool, y: Tensor, threads: int) -> None: ...
    def log_sum_exp(self, logits: Tensor, running: Tensor, softcap: float, threads: int) -> None: ...
    def route(
        self, logits: Tensor, has_normalised_weights: bool, experts: Tensor, weights: Tensor, threads: int
    ) -> None: ...
    def combine_experts(self, outputs: Tensor, rows: Tensor, weights: Tensor, y: Tensor, threads: int) -> None: ...
    def pooled_score(
        self,
        x: Tensor,
        residual: Tensor,
        rows: Tensor,
        norm_weight: Tensor,
        eps: float,
        head_weight: Tensor | None,
        head_bias: float,
        features: Tensor,
        scores: Tensor | None,
        threads: int,
    ) -> None: ...
    def tree_attention(
        self, qkv: Tensor, spec: AttentionSpec, plan: AttentionPlan, out: Tensor, threads: int
    ) -> None: ...
    def packed_int8_bytes(self, num_outputs: int, num_inputs: int, activation_bits: int) -> int: ...
    def pack_int8_linear(self, weight: Tensor, activation_bits: int, packed: Tensor, threads: int) -> None: ...
    def int8_linear(
        self,
        x: Tensor,
        packed: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        activation_bits: int,
        has_hadamard: bool,
        y: Tensor,
        threads: int,
    ) -> None: ...
    def rms_norm_backward(
        self,
        z: Tensor,
        weight: Tensor,
        eps: float,
        grad_y: Tensor,
        grad_residual: Tensor | None,
        grad_z: Tensor,
        grad_weight: Tensor,
        threads: int,
    ) -> None: ...
    def glu_backward(
        self, gate_up: Tensor, is_gelu: bool, grad_y: Tensor, grad_gate_up: Tensor, threads: int
    ) -> None: ...
    def tree_attention_backward(
        self, qkv: Tensor, spec: AttentionSpec, plan: AttentionPlan, grad_out: Tensor, grad_qkv: Tensor, threads: int
    ) -> None: ...
