"""Small prefix trees with random tokens, for tests of attention."""

from collections.abc import Sequence

import numpy as np
import torch

from codescaler.ops import Heads, Tree
from codescaler.ops.plan import plan

# A prompt's length and its branches' lengths: around a key block (64), a softmax step (256), a query tile, and one.
BRANCHES = [(150, (1, 30, 100, 263)), (64, (1, 64, 65)), (300, (5,)), (1, (1, 2))]


def make_random_tree(branches: Sequence[tuple[int, Sequence[int]]], seed: int = 0) -> Tree:
    """Returns a tree in which each prompt is shared by its branches, on torch's default device."""
    generator = np.random.default_rng(seed)
    sequences = []
    for prompt_length, lengths in branches:
        prompt = generator.integers(0, 1000, prompt_length)
        sequences += [np.concatenate([prompt, generator.integers(0, 1000, n)]).astype(np.int32) for n in lengths]
    (batch,) = plan(sequences, 10**9)
    return Tree.from_batch(batch, torch.get_default_device())


def make_random_qkv(tree: Tree, heads: Heads, dtype: torch.dtype, random: torch.Generator) -> torch.Tensor:
    """Returns normal queries, keys and values. Shapes: [T, E]."""
    return torch.randn(len(tree.token_ids), heads.qkv_width, generator=random, device=random.device).to(dtype)
