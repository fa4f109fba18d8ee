"""Replayed forwards: the same bits as forwards of the padded tree, whatever tree the graph was captured on."""

import numpy as np
import pytest
import torch

from codescaler.checkpoint.load import open_checkpoint
from codescaler.engine import Engine, cuda_graphs
from codescaler.engine.cuda_graphs import CudaGraphs
from codescaler.env import is_triton_interpreted
from codescaler.errors import BackendUnavailable
from codescaler.model.decoder import build_decoder
from codescaler.ops import Tree, select_backend
from codescaler.ops.plan import plan
from codescaler.testing import save_random_checkpoint

DEVICE = torch.device("cpu" if is_triton_interpreted() else "cuda")
VOCABULARY = 200
pytestmark = pytest.mark.skipif(
    not is_triton_interpreted() and not torch.cuda.is_available(),
    reason="needs a GPU, or Triton's interpreter: make test-triton",
)


def rerun(forward):
    """Captures without a card: a replay runs the forward again, over the memory that it ran over before."""
    outputs = forward()

    def replay():
        for output, again in zip(outputs, forward(), strict=True):
            output.copy_(again)

    return replay, outputs


def load(folder, family, deterministic=False):
    save_random_checkpoint(folder, family, num_hidden_layers=2, vocab_size=VOCABULARY)
    checkpoint = open_checkpoint(folder)
    backend = select_backend("triton", DEVICE.type, deterministic=deterministic)
    return build_decoder(checkpoint.config, checkpoint.get, backend, torch.float32, DEVICE)


@pytest.fixture
def decoder(tmp_path):
    return load(tmp_path, "gemma2")  # layers with a window and layers without


def make_graphs(decoder):
    return CudaGraphs(decoder, (lambda: rerun) if DEVICE.type == "cpu" else None)


def draw_batch(seed, num_candidates=3):
    """A tree of a prompt and its candidates, of random lengths, all of one padded size."""
    random = np.random.default_rng(seed)
    prompt = random.integers(0, VOCABULARY, 8 + seed)
    lengths = random.integers(3, 5, num_candidates)
    lists = [np.concatenate([prompt, random.integers(0, VOCABULARY, length)]) for length in lengths]
    (batch,) = plan([tokens.astype(np.int32) for tokens in lists], 10**9)
    return batch


def pad_tree(batch):
    return Tree.from_batch(batch.pad(batch.round_up_sizes()), DEVICE)


def test_a_replay_has_the_bits_of_its_own_batch(decoder):
    graphs = make_graphs(decoder)
    batches = [draw_batch(seed) for seed in range(3)]
    assert len({batch.round_up_sizes() for batch in batches}) == 1 < len({batch.num_tokens for batch in batches})
    with torch.inference_mode():
        expected = [decoder.forward(pad_tree(batch)) for batch in batches]
        for _ in range(2):
            for batch, forward in zip(batches, expected, strict=True):
                for result, wanted in zip(graphs.forward(batch), forward, strict=True):
                    assert torch.equal(result, wanted[: len(batch.rows)])
        assert len(graphs) == 1
        graphs.clear()
        assert torch.equal(graphs.forward(batches[0])[1], expected[0][1][:3])


def test_a_padded_tree_has_the_bits_of_the_tree(tmp_path):
    decoder = load(tmp_path, "qwen3", deterministic=True)
    with torch.inference_mode():
        for num_candidates in (1, 4):
            batch = draw_batch(0, num_candidates)
            padded, plain = decoder.forward(pad_tree(batch)), decoder.forward(Tree.from_batch(batch, DEVICE))
            for result, expected in zip(padded, plain, strict=True):
                assert torch.equal(result[: len(batch.rows)], expected)


def test_freed_graphs_leave_their_memory_to_no_other(decoder):
    """Torch refuses to capture into memory whose last graph is gone."""
    made = []
    graphs = CudaGraphs(decoder, lambda: made.append(len(made)) or rerun)
    for _ in range(2):
        graphs.clear()
    assert made == [0, 1, 2]


def test_few_graphs_are_kept_and_large_trees_are_not_captured(decoder, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    monkeypatch.setattr(cuda_graphs, "MAX_TOKENS", 60)
    graphs = make_graphs(decoder)
    graphs._seen.update(draw_batch(0, count).round_up_sizes() for count in (1, 3, 9))
    with torch.inference_mode():
        for count, num_kept in ((1, 1), (20, 1), (3, 2), (9, 2)):
            assert len(graphs.forward(draw_batch(0, count))[1]) == count
            assert len(graphs) == num_kept


def test_a_cpu_has_no_graphs(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", num_hidden_layers=1)
    with pytest.raises(BackendUnavailable, match="cuda_graphs=True needs a GPU, and device 'cpu' is none"):
        Engine.from_pretrained(tmp_path, device="cpu", cuda_graphs=True)
