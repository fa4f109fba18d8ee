"""Weights out of their memory and back, on tensors of the CPU: a storage there is emptied as on a GPU."""

import pytest
import torch

from codescaler.checkpoint.load import open_checkpoint
from codescaler.engine import Engine
from codescaler.engine.offload import Offload, find_tensors
from codescaler.errors import BackendUnavailable
from codescaler.model.decoder import build_decoder
from codescaler.ops import reference
from codescaler.testing import make_branching_lists, run_forward_lists, save_random_checkpoint


@pytest.fixture
def decoder(tmp_path):
    """Weights in float64, so that each is a copy: a view of the mapped file could not be emptied."""
    save_random_checkpoint(tmp_path, "qwen2", num_hidden_layers=2)
    checkpoint = open_checkpoint(tmp_path)
    return build_decoder(
        checkpoint.config,
        lambda name: clone(checkpoint.get(name)),
        reference.BACKEND,
        torch.float64,
        torch.device("cpu"),
    )


def clone(tensor):
    return None if tensor is None else tensor.clone()


def test_what_moves_out_comes_back_with_the_same_bits(decoder):
    lists = make_branching_lists()
    before = run_forward_lists(decoder, lists)
    tensors = list(find_tensors(decoder))
    offload = Offload(decoder, min_bytes=1)
    assert offload.num_bytes >= sum(parameter.nbytes for parameter in {id(t): t for t in tensors}.values()) > 0
    assert not any(tensor.untyped_storage().nbytes() for tensor in tensors)
    offload.restore()
    for result, expected in zip(run_forward_lists(decoder, lists), before, strict=True):
        assert torch.equal(result, expected)


def test_every_weight_of_the_checkpoint_is_found(decoder, tmp_path):
    numel = sum(tensor.numel() for tensor in {tensor.data_ptr(): tensor for tensor in find_tensors(decoder)}.values())
    checkpoint = open_checkpoint(tmp_path)
    assert numel == sum(checkpoint.get(name).numel() for name in checkpoint.sources)


def test_views_of_one_storage_move_once_and_small_tensors_stay():
    large, small = torch.arange(100.0), torch.ones(2)
    offload = Offload([large, large[50:], {"small": small}], min_bytes=100)
    assert (offload.num_bytes, large.untyped_storage().nbytes(), small.sum()) == (400, 0, 2)
    offload.restore()
    assert torch.equal(large[50:], torch.arange(50.0, 100.0))


def test_an_engine_that_sleeps_computes_nothing_and_says_so(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", num_hidden_layers=1)
    engine = Engine.from_pretrained(tmp_path, device="cpu")
    scores = engine.score_tokens([[1, 2, 3]])
    engine.sleep()
    engine.sleep()
    with pytest.raises(BackendUnavailable, match=r"the engine sleeps.*call wake\(\) first"):
        engine.score_tokens([[1, 2, 3]])
    engine.wake()
    engine.wake()
    assert engine.score_tokens([[1, 2, 3]]) == scores
