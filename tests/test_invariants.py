"""Bit-identity: a sequence gets the same bits alone, in any batch, in any order, on any number of threads."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codescaler.checkpoint.load import open_checkpoint
from codescaler.engine import Engine
from codescaler.model.projections import list_linear_names
from codescaler.quantize.int8 import save_quantized
from codescaler.testing import WIDTHS, save_chat, save_random_checkpoint
from codescaler.types import QuantScheme

VOCABULARY = 97


@pytest.fixture(scope="module", params=WIDTHS)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    save_random_checkpoint(
        path, request.param, vocab_size=VOCABULARY, num_hidden_layers=2, pad_token_id=None, **WIDTHS[request.param]
    )
    assert json.loads((path / "config.json").read_text())["hidden_size"] == WIDTHS[request.param]["hidden_size"]
    return path


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8"])
def model(request, folder, tmp_path_factory):
    """A model, where asked with every linear layer in int8, each layer scheme its inputs otherwise, and its dtype."""
    if request.param != "int8":
        return folder, request.param
    if open_checkpoint(folder).config.experts is not None:
        pytest.skip("experts are not quantised")
    path = tmp_path_factory.mktemp("int8")
    save_chat(folder)
    checkpoint = open_checkpoint(folder)
    schemes = {
        name: QuantScheme.of(8, checkpoint.sources[f"{name}.weight"].shape[1])
        if name.startswith("layers.0.")
        else QuantScheme(16, has_hadamard=False)
        for name in list_linear_names(2)
    }
    assert any(scheme.has_hadamard for scheme in schemes.values())
    save_quantized(checkpoint, schemes, path)
    return path, "float32"


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch sees: make gpu")


@pytest.fixture(scope="module", params=["cpu", pytest.param("triton-cuda", marks=needs_gpu)])
def place(request):
    """Settings of an engine: on a GPU too, a score that is asked to be deterministic keeps its bits."""
    if request.param == "cpu":
        return {"backend": "cpu"}
    return {"backend": "triton", "device": "cuda", "deterministic": True}


@pytest.fixture(scope="module")
def engine(model, place):
    path, dtype = model
    return Engine.from_pretrained(path, dtype=dtype, num_threads=2, **place)


def some_lists(seed=0):
    """Shared prompts, a list that is another's prefix, equal lists, and one token."""
    random = np.random.default_rng(seed)
    prompt = random.integers(0, VOCABULARY, 150).tolist()
    lists = [[*prompt, *random.integers(0, VOCABULARY, n).tolist()] for n in (1, 2, 63, 120, 300)]
    lists += [prompt, lists[2], lists[3][:200], [5], random.integers(0, VOCABULARY, 17).tolist()]
    return lists


def bits(engine, lists):
    return np.concatenate([engine.score_tokens(lists)[:, None], engine.features_tokens(lists)], axis=1)


def test_alone_shuffled_and_together(engine):
    lists = some_lists()
    together = bits(engine, lists)
    assert np.isfinite(together).all()
    order = np.random.default_rng(1).permutation(len(lists))
    assert np.array_equal(bits(engine, [lists[i] for i in order]), together[order])
    for i, tokens in enumerate(lists):
        assert np.array_equal(bits(engine, [tokens]), together[i : i + 1]), f"sequence {i} of {len(tokens)} tokens"


def test_with_and_without_sharing_and_under_a_small_budget(engine, model, place):
    lists = some_lists()
    together = bits(engine, lists)
    unshared = np.concatenate([bits(engine, [tokens, [7] * 30]) for tokens in lists])[::2]
    assert np.array_equal(unshared, together)
    longest = max(map(len, lists))
    small = Engine.from_pretrained(model[0], dtype=engine.dtype, max_batch_tokens=longest, **place)
    assert np.array_equal(bits(small, lists), together)


def test_on_one_thread(engine, model, place):
    lists = some_lists()
    single = Engine.from_pretrained(model[0], dtype=engine.dtype, num_threads=1, **place)
    assert np.array_equal(bits(single, lists), bits(engine, lists))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["Qwen2ForRewardModel", "GRewardModel"])
def test_with_an_mlp_head(tmp_path, architecture, dtype):
    sizes = WIDTHS["qwen2"] | {"intermediate_size": 64, "vocab_size": VOCABULARY, "pad_token_id": None}
    save_random_checkpoint(tmp_path, "qwen2", architecture, num_hidden_layers=1, **sizes)
    lists = some_lists()
    engine = Engine.from_pretrained(tmp_path, dtype=dtype, backend="cpu", num_threads=2)
    together = engine.score_tokens(lists)
    assert len(set(together.tolist())) == len({tuple(tokens) for tokens in lists})
    for number, threads in enumerate([1, 2, 1, 2, 1, 2, 1, 2, 1, 2]):
        single = Engine.from_pretrained(tmp_path, dtype=dtype, backend="cpu", num_threads=threads)
        assert np.array_equal(single.score_tokens([lists[number]]), together[number : number + 1])


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def tiny_engine(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    save_random_checkpoint(path, "qwen3", vocab_size=3, pad_token_id=None)
    return Engine.from_pretrained(path, dtype=request.param, backend="cpu", max_batch_tokens=400)


@st.composite
def random_trees(draw):
    """Lists that branch off one another at random places."""
    lists = []
    for _ in range(draw(st.integers(1, 6))):
        base = draw(st.sampled_from(lists)) if lists else []
        tail = draw(st.lists(st.integers(0, 2), max_size=draw(st.sampled_from([2, 150]))))
        lists.append((base[: draw(st.integers(0, len(base)))] + tail)[:400] or [0])
    return lists


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=random_trees())
def test_over_random_trees(tiny_engine, lists):
    together = tiny_engine.score_tokens(lists)
    alone = np.concatenate([tiny_engine.score_tokens([tokens]) for tokens in lists])
    assert np.array_equal(together, alone)


# Rows of a matrix product, alone and in any number, on any number of threads: what bit-identity rests on. In a process
# of its own, since oneDNN takes its instruction set once.
LINEAR = """
import torch
from codescaler.ops import LinearWeights, cpu
from codescaler.ops.cpu.expert_mlp import pad_expert_rows
torch.manual_seed(0)
backend = cpu.make_backend()
for dtype in [torch.float32] + [torch.bfloat16] * (sys.argv[1] == "DEFAULT" and backend.has_bf16_unit):
    sizes = [(1024, 512), (3072, 256), (896, 1152), (4864, 224), (576, 960), (1536, 192), (2048, 96), (768, 128)]
    for inputs, outputs in sizes + [(4096, 1), (1024, 1), (896, 1), (33, 1)] * (dtype is torch.float32):  # MLP heads
        packed = backend.pack_linear(LinearWeights((torch.randn(outputs, inputs) * 0.02).to(dtype)))
        x = torch.randn(700, inputs).to(dtype)
        torch.set_num_threads(1)
        together = backend.linear(x, packed)
        for threads in (1, 2, 8, 32):
            torch.set_num_threads(threads)
            for rows in (1, 2, 15, 16, 17, 48, 100, 511, 700):
                same = torch.equal(backend.linear(x[:rows], packed), together[:rows])
                assert same, (dtype, inputs, outputs, threads, rows)
            for rows in {pad_expert_rows(rows) for rows in range(1, 641)} if outputs < 192 else ():  # experts' widths
                same = torch.equal(packed.multiply(x[:rows]), together[:rows])
                assert same, (dtype, inputs, outputs, threads, rows)
"""


OLDER_ISAS = ["AVX512_CORE", "AVX2", "SSE41"]


@pytest.mark.parametrize("onednn_isa", ["DEFAULT", *(pytest.param(x, marks=pytest.mark.slow) for x in OLDER_ISAS)])
def test_rows_of_a_matrix_product(onednn_isa):
    run = [sys.executable, "-c", "import sys" + LINEAR, onednn_isa]
    subprocess.run(run, check=True, env=os.environ | {"ONEDNN_MAX_CPU_ISA": onednn_isa, "OMP_WAIT_POLICY": "passive"})
