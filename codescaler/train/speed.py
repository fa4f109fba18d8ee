"""How much arithmetic a step is worth, and how much this machine does: for the log."""

import time

import torch

from codescaler.ops import Tree
from codescaler.train.config import Method
from codescaler.types import ModelConfig

# Of the square product that is timed: a CPU that emulates bfloat16 takes a second for it, a GPU needs a large one.
_PEAK_SIZES = {"cpu": 512, "cuda": 8192}
_PEAK_SECONDS = 0.2


def count_step_flops(config: ModelConfig, method: Method, tree: Tree) -> float:
    """Returns the floating-point operations of the matrix products of a forward and backward over a tree.

    Each linear layer costs one product forward, one for the gradient of its input and one for that of its weight;
    attention two forward and five backward. With "lora" the gradients of weights are small and not counted, with "head"
    there is no backward. What gradient checkpointing computes twice is counted once, and the last layer in full.
    """
    q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    weights = config.hidden_size * (2 * q_width + 2 * kv_width + 3 * config.intermediate_size)
    num_tokens = tree.batch.num_tokens
    num_visible = int(tree.batch.positions.sum()) + num_tokens
    linear, attention = {"full": (3.0, 3.5), "lora": (2.0, 3.5), "head": (1.0, 1.0)}[method]
    return 2.0 * config.num_layers * (linear * weights * num_tokens + attention * 2 * q_width * num_visible)


def measure_peak_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Returns the floating-point operations a second of a square matrix product: the best within 0.2 s.

    Ten products took 3 ms, and one other process made them 25 times as slow.
    """
    size = _PEAK_SIZES[device.type]
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    left @ right  # the first call chooses and compiles a kernel
    _wait_for(device)
    best = float("inf")
    end = time.perf_counter() + _PEAK_SECONDS
    while (started := time.perf_counter()) < end or best == float("inf"):
        left @ right
        _wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
