import pytest
import torch

from codescaler.ops import reference
from codescaler.testing import assert_accurate

EPS = 1e-6


def inputs(random, dtype, num_rows, width):
    return {
        "x_UD": torch.randn(num_rows, width, generator=random).to(dtype),
        "residual_UD": torch.randn(num_rows, width, generator=random),
        "rows_B": torch.tensor([num_rows - 1, 0, 0, num_rows // 2]),
        "norm_weight_D": torch.rand(width, generator=random) + 0.5,
        "eps": EPS,
        "head_weight_1D": torch.randn(1, width, generator=random),
        "head_bias_1": torch.randn(1, generator=random),
    }


def double(arguments):
    return {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in arguments.items()
    }


@pytest.mark.parametrize("num_rows, width", [(1, 1), (3, 7), (5, 16), (2, 17), (60, 257), (60, 1024)])
def test_matches_the_truth(backend, dtype, random, num_rows, width):
    arguments = inputs(random, dtype, num_rows, width)
    arguments["rows_B"] = torch.randperm(num_rows, generator=random)
    residual = arguments["residual_UD"].clone()
    results = backend.pooled_score(*arguments.values())
    truths, peers = reference.pooled_score(**double(arguments)), reference.pooled_score(**arguments)
    for result, truth, peer in zip(results, truths, peers, strict=True):
        assert result.dtype == torch.float32
        assert_accurate(result, truth, peer)
    assert torch.equal(arguments["residual_UD"], residual)


def test_without_a_head_there_are_features_only(backend, dtype, random):
    arguments = inputs(random, dtype, 5, 33)
    features, scores = backend.pooled_score(*arguments.values())
    arguments["head_weight_1D"] = arguments["head_bias_1"] = None
    same, nothing = backend.pooled_score(*arguments.values())
    assert scores is not None
    assert nothing is None
    assert torch.equal(features, same)


def test_nan_reaches_its_own_score_only(backend, dtype, random):
    arguments = inputs(random, dtype, 5, 33)
    arguments["x_UD"][0, 32] = torch.nan
    features, scores = backend.pooled_score(*arguments.values())
    assert scores.isnan().tolist() == [False, True, True, False]
    assert features.isnan().all(dim=1).tolist() == [False, True, True, False]


def test_empty(backend, dtype, random):
    arguments = inputs(random, dtype, 5, 33)
    arguments["rows_B"] = torch.empty(0, dtype=torch.int64)
    features, scores = backend.pooled_score(*arguments.values())
    assert features.shape == (0, 33)
    assert scores.shape == (0,)
