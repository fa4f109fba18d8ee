"""Which projections of a layer are rows of one matrix, so that they are multiplied, and quantised, as one."""

# By that matrix's name in `decoder.Layer`.
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
ROUTER = "mlp.gate.weight"


def list_expert_names(matrix: str, num_experts: int) -> list[tuple[str, ...]]:
    """Returns, for each expert, the projections of its "gate_up" or "down"."""
    return [tuple(name.replace("mlp.", f"mlp.experts.{i}.") for name in FUSED[matrix]) for i in range(num_experts)]


def list_fused_linears(num_layers: int) -> list[tuple[str, ...]]:
    """Returns the canonical names of all linear layers of the model, those of one matrix together."""
    return [tuple(f"layers.{i}.{name}" for name in names) for i in range(num_layers) for names in FUSED.values()]


def list_linear_names(num_layers: int) -> frozenset[str]:
    """Returns the same names, each by itself."""
    return frozenset(name for names in list_fused_linears(num_layers) for name in names)
