"""Scales that are powers of two change no bit of a model, and even out what activations are rounded by."""

import numpy as np
import pytest
import torch

from codescaler.model.decoder import build_decoder
from codescaler.model.projections import FUSED, fused_linears
from codescaler.model.quantized import quantize_weight
from codescaler.model.smoothing import makers, smoothed, smoothing_exponents
from codescaler.ops import Tree, reference, select_backend
from codescaler.plan import plan
from codescaler.testing import save_random_checkpoint
from codescaler.weights import open_checkpoint

LISTS = [np.array(ids, dtype=np.int32) for ids in ([1, 2, 3, 4], [1, 2, 3, 9, 9], [7], [*range(80)])]


def scores(config, get):
    decoder = build_decoder(config, get, select_backend("cpu", "cpu"), torch.float32, torch.device("cpu"))
    (batch,) = plan(LISTS, max_batch_tokens=1000)
    return decoder.forward(Tree.from_batch(batch, torch.device("cpu")))[1]


def random_exponents(config, random):
    """Of every map that can have scales; heads that read the same values have the same."""
    result = {}
    for number, fused in enumerate(fused_linears(config.num_layers)):
        matrix = list(FUSED)[number % len(FUSED)]
        if matrix == "o":
            alike = (1, config.num_heads // config.num_kv_heads, 1)
            drawn = np.tile(random.integers(-4, 5, (config.num_kv_heads, 1, config.head_dim)), alike)
        else:
            drawn = random.integers(-4, 5, config.intermediate_size if matrix == "down" else config.hidden_size)
        if matrix in makers(config):
            result[fused] = tuple(drawn.ravel().tolist())
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama", "gemma2"])
def test_a_model_has_the_same_bits(tmp_path, family, dtype):
    save_random_checkpoint(tmp_path, family, dtype=dtype, num_hidden_layers=2, attention_bias=family == "llama")
    checkpoint = open_checkpoint(tmp_path)
    config, exponents = checkpoint.config, random_exponents(checkpoint.config, np.random.default_rng(0))
    assert config.num_kv_heads < config.num_heads
    assert len(exponents) == (4 if family == "gemma2" else 8)
    changed = smoothed(checkpoint.get, config, exponents)
    for fused in exponents:
        assert not torch.equal(changed(f"{fused[0]}.weight"), checkpoint.get(f"{fused[0]}.weight"))
    assert torch.equal(scores(config, changed), scores(config, checkpoint.get))


def test_a_large_channel_costs_the_others_less(random):
    x, weight = torch.randn(200, 64, generator=random), torch.randn(32, 64, generator=random)
    x[:, 5] *= 300
    exponents = smoothing_exponents(x.abs().amax(dim=0), weight)
    scale = torch.tensor(exponents).float().exp2()
    assert exponents[5] == max(exponents) >= 5
    errors = []
    for factor in (torch.ones(64), scale):
        integers, row_scale = quantize_weight(weight * factor)
        packed = reference.pack_int8_linear(integers, row_scale[:, 0], None, 8)
        errors.append((reference.linear(x / factor, packed) - x @ weight.T).square().mean().sqrt().item())
    assert errors[1] < errors[0] / 3


def test_a_silent_channel_has_a_moderate_scale(random):
    size = torch.rand(16, generator=random) + 0.5
    size[3] = 0.0
    weight = torch.randn(8, 16, generator=random)
    weight[:, 4] = 0.0
    exponents = smoothing_exponents(size, weight)
    assert exponents[3] == min(exponents) >= -12
    assert exponents[4] == max(exponents) <= 12


def test_heads_of_a_group_have_the_same_scales(random):
    exponents = smoothing_exponents(torch.rand(24, generator=random), torch.randn(8, 24, generator=random), (3, 4))
    heads = [exponents[i : i + 4] for i in range(0, 24, 4)]
    assert heads[0] == heads[1] == heads[2] != heads[3]
    assert heads[3] == heads[4] == heads[5]
