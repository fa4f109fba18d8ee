import functools
import logging
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from codescaler import ops
from codescaler.engine import Engine, forward
from codescaler.errors import BackendUnavailable, CapacityExceeded, InvalidInput, MissingTensor
from codescaler.ops import select_backend
from codescaler.testing import edit_tensors, save_chat, save_random_checkpoint

PAD = 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen3")
    save_random_checkpoint(path, "qwen3", pad_token_id=PAD)
    return path


@pytest.fixture(scope="module")
def engine(folder):
    return Engine.from_pretrained(folder)


LISTS = [[3, 4, 5], [3, 4, 6, 7], [9], [3, 4, 5]]


def test_scores_and_features_have_the_shapes_promised(engine):
    scores, features = engine.score_tokens(LISTS), engine.features_tokens(LISTS)
    assert (scores.shape, scores.dtype) == ((4,), np.float32)
    assert (features.shape, features.dtype) == ((4, engine.config.hidden_size), np.float32)
    assert scores[0] == scores[3]
    head = engine._decoder.head_weight.numpy()[0]
    assert np.allclose(features @ head, scores, rtol=1e-5)


def test_no_lists_give_no_scores(engine):
    assert engine.score_tokens([]).shape == (0,)
    assert engine.features_tokens([]).shape == (0, engine.config.hidden_size)


def test_arrays_are_lists_too(engine):
    array = np.array([[3, 4, 5], [3, 4, 6]], dtype=np.uint16)
    expected = engine.score_tokens([[3, 4, 5], [3, 4, 6]])
    assert np.array_equal(engine.score_tokens(array), expected)
    assert np.array_equal(engine.score_tokens([torch.tensor([3, 4, 5]).numpy(), (3, 4, 6)]), expected)


@pytest.mark.parametrize(
    "ids, message",
    [
        ([[1, 2], []], r"ids\[1\] is empty"),
        ([[1, 211]], r"ids\[0\]\[1\] is 211, outside the vocabulary 0\.\.210"),
        ([[1, -1]], r"ids\[0\]\[1\] is -1, outside"),
        ([[1, 2**40]], r"ids\[0\]\[1\] is 1099511627776, outside"),
        ([[1, 2**80]], r"ids\[0\] holds object values"),
        ([[1.0, 2.0]], r"ids\[0\] holds float64 values"),
        ([[True, False]], r"ids\[0\] holds bool values"),
        ([[True, 2]], r"ids\[0\] holds bool values"),
        ([np.array([True])], r"ids\[0\] holds bool values"),
        ([["a"]], r"ids\[0\] holds"),
        ([[[1, 2]]], r"ids\[0\] has shape \(1, 2\)"),
        ([[1, [2, 3]]], r"ids\[0\] is not a flat list"),
        ([1, 2, 3], r"ids\[0\] is 1; give a list of token-id lists"),
        (["abc"], r"ids\[0\] is 'abc'"),
        ("abc", "ids is a str"),
        (None, "ids is a NoneType"),
        ([[None]], r"ids\[0\] holds object values"),
    ],
)
def test_bad_ids_are_named(engine, ids, message):
    with pytest.raises(InvalidInput, match=message):
        engine.score_tokens(ids)


def test_pooling_is_that_of_transformers(folder):
    hf, last = Engine.from_pretrained(folder), Engine.from_pretrained(folder, pooling="last")
    tokens = [3, PAD, 4, 5]
    padded, pads = [*tokens, PAD, PAD], [PAD, PAD, PAD]
    assert hf.score_tokens([padded])[0] == hf.score_tokens([tokens])[0] == last.score_tokens([tokens])[0]
    assert hf.score_tokens([pads])[0] == last.score_tokens([[PAD]])[0]
    assert last.score_tokens([padded])[0] != last.score_tokens([tokens])[0]


def test_without_a_pad_token_the_last_is_pooled(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", pad_token_id=None)
    tokens = [[3, 0, 0], [0, 0, 0]]
    hf, last = Engine.from_pretrained(tmp_path), Engine.from_pretrained(tmp_path, pooling="last")
    assert np.array_equal(hf.score_tokens(tokens), last.score_tokens(tokens))


def test_token_classification_pools_the_last_token(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", "TokenClassification", pad_token_id=PAD)
    tokens = [[3, 4, PAD, PAD]]
    hf, last = Engine.from_pretrained(tmp_path), Engine.from_pretrained(tmp_path, pooling="last")
    assert np.array_equal(hf.score_tokens(tokens), last.score_tokens(tokens))


def test_a_list_over_the_budget_is_refused_before_any_work(folder, monkeypatch):
    small = Engine.from_pretrained(folder, max_batch_tokens=8)
    monkeypatch.setattr(forward, "plan", lambda *_: pytest.fail("work was done"))
    with pytest.raises(CapacityExceeded, match=r"ids\[1\] has 9 tokens, more than max_batch_tokens=8"):
        small.score_tokens([[1] * 8, [1] * 9])


def test_the_budget_counts_distinct_tokens(folder, monkeypatch):
    sizes = []
    small = Engine.from_pretrained(folder, max_batch_tokens=10)
    forward = type(small._decoder).forward
    monkeypatch.setattr(
        type(small._decoder), "forward", lambda self, tree: (sizes.append(len(tree.token_ids)), forward(self, tree))[1]
    )
    small.score_tokens([[1, 2, 3, 4, 5, 6, 7, 8, i] for i in (1, 2, 3)])
    assert sizes == [10, 9]


@pytest.mark.parametrize("truncation, kept", [("left", [5, 6, 7, 8, 9]), ("middle", [1, 2, 7, 8, 9])])
def test_truncation_is_asked_for_and_counted(folder, truncation, kept):
    engine = Engine.from_pretrained(folder, max_length=5, truncation=truncation)
    scores = engine.score_tokens([[1, 2, 3, 4, 5, 6, 7, 8, 9], kept])
    assert scores[0] == scores[1]
    assert engine.num_truncated == 1


@pytest.mark.parametrize("truncation", ["error", "left", "middle"])
def test_what_follows_the_pooled_token_does_not_count(folder, truncation):
    engine = Engine.from_pretrained(folder, max_length=5, truncation=truncation)
    scores = engine.score_tokens([[3, 4, 5, 6, 7, *[PAD] * 10], [3, 4, 5, 6, 7]])
    assert scores[0] == scores[1]
    assert engine.num_truncated == 0


def test_too_long_is_an_error_by_default(folder):
    with pytest.raises(InvalidInput, match=r"ids\[0\] has 6 tokens, more than max_length=5"):
        Engine.from_pretrained(folder, max_length=5).score_tokens([[1] * 6])
    with pytest.raises(InvalidInput, match="more than max_length=512"):
        Engine.from_pretrained(folder).score_tokens([[1] * 513])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pooling": "mean"}, "pooling='mean' is unknown"),
        ({"truncation": "right"}, "truncation='right' is unknown"),
        ({"head": "maybe"}, "head='maybe' is unknown"),
        ({"dtype": "int8"}, "dtype='int8' is unknown"),
        ({"backend": "fast"}, "backend 'fast' is unknown"),
        ({"quantization": "int4"}, "quantization='int4' is unknown; choose None or 'int8'"),
        ({"num_threads": 0}, "num_threads=0"),
        ({"max_batch_tokens": True}, "max_batch_tokens=True"),
        ({"max_length": -3}, "max_length=-3"),
        ({"device": "tpu9"}, "device='tpu9'"),
        ({"device": "meta"}, "device='meta' is not supported"),
    ],
)
def test_bad_arguments_are_named(folder, arguments, message):
    with pytest.raises(InvalidInput, match=re.escape(message)):
        Engine.from_pretrained(**({"model": folder} | arguments))


def test_the_default_is_the_model_in_the_package(folder, monkeypatch):
    monkeypatch.setattr("codescaler.checkpoint.download.PACKAGED_MODEL", folder)
    ids, named = [[1, 2, 3]], Engine.from_pretrained(folder)
    for engine in (Engine.from_pretrained(), Engine.from_pretrained("nano")):
        assert engine.score_tokens(ids) == named.score_tokens(ids)
        assert engine.folder == folder


def test_the_head_s_digest_tells_models_apart(folder, tmp_path):
    digest = Engine.from_pretrained(folder).head_digest
    assert digest == Engine.from_pretrained(folder, dtype="bfloat16").head_digest
    save_random_checkpoint(tmp_path, "qwen3", seed=5)
    assert digest != Engine.from_pretrained(tmp_path).head_digest
    with pytest.raises(InvalidInput, match="head='none'"):
        _ = Engine.from_pretrained(folder, head="none").head_digest


def test_a_named_backend_never_falls_back(folder):
    with pytest.raises(BackendUnavailable, match="'triton' cannot run"):
        Engine.from_pretrained(folder, backend="triton")
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="torch sees 0 GPUs"):
            Engine.from_pretrained(folder, device="cuda")


def test_auto_passes_over_a_broken_extension_and_says_so(folder, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "codescaler.ops.cpu", None)  # what a broken extension looks like
    monkeypatch.delattr(ops, "cpu")
    with caplog.at_level(logging.WARNING):
        engine = Engine.from_pretrained(folder)
    assert engine.backend == "reference"
    assert "cannot be imported" in caplog.text
    with pytest.raises(BackendUnavailable, match="reinstall"):
        Engine.from_pretrained(folder, backend="cpu")


def test_a_forced_instruction_set_is_used(folder, engine, monkeypatch):
    monkeypatch.setenv("CODESCALER_CPU_ISA", "generic")
    forced = Engine.from_pretrained(folder)
    assert "C++ generic" in repr(forced)
    assert np.allclose(forced.score_tokens(LISTS), engine.score_tokens(LISTS), rtol=1e-4)


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_a_forced_instruction_set_that_is_not_here_is_refused(folder, monkeypatch, backend):
    monkeypatch.setenv("CODESCALER_CPU_ISA", "avx10")
    with pytest.raises(BackendUnavailable, match=r"'avx10' is not supported by this CPU; it has .*generic"):
        Engine.from_pretrained(folder, backend=backend)


def test_dtype_auto(tmp_path, monkeypatch):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        save_random_checkpoint(tmp_path / str(dtype), "qwen3", dtype=dtype)
    assert Engine.from_pretrained(tmp_path / "torch.float16").dtype == "float32"
    assert Engine.from_pretrained(tmp_path / "torch.float32").dtype == "float32"
    has_unit = "_bf16" in Engine.from_pretrained(tmp_path / "torch.float32")._decoder.backend.description
    for is_intel, has_amx in ((False, False), (True, False), (True, True)):
        monkeypatch.setattr("codescaler._C.IS_INTEL", is_intel)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda has_amx=has_amx: has_amx)
        fast = Engine.from_pretrained(tmp_path / "torch.bfloat16")
        assert fast.dtype == ("bfloat16" if has_unit and (has_amx or not is_intel) else "float32")
        assert fast.dtype in repr(fast)
        assert fast._decoder.backend.has_bf16_unit == has_unit
    monkeypatch.setenv("CODESCALER_CPU_ISA", "generic")
    assert Engine.from_pretrained(tmp_path / "torch.bfloat16").dtype == "float32"
    assert Engine.from_pretrained(tmp_path / "torch.bfloat16", dtype="bfloat16").dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_stored_does_not_matter_to_numbers_that_it_holds(tmp_path, dtype):
    for name in ("narrow", "wide"):
        save_random_checkpoint(tmp_path / name, "gemma2", dtype=torch.bfloat16)
    for path in (tmp_path / "wide").glob("*.safetensors"):
        edit_tensors(path, lambda tensors: {name: tensor.float() for name, tensor in tensors.items()})
    narrow, wide = (Engine.from_pretrained(tmp_path / name, dtype=dtype) for name in ("narrow", "wide"))
    assert (narrow.config.dtype, wide.config.dtype) == ("bfloat16", "float32")
    assert narrow.features_tokens(LISTS).tobytes() == wide.features_tokens(LISTS).tobytes()


def test_a_folder_without_a_head_has_features_only(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", "CausalLM")
    with pytest.raises(MissingTensor, match="head='none'"):
        Engine.from_pretrained(tmp_path)
    engine = Engine.from_pretrained(tmp_path, head="none")
    assert engine.features_tokens(LISTS).shape == (4, 64)
    with pytest.raises(InvalidInput, match="ask for features"):
        engine.score_tokens(LISTS)


def test_threads_share_one_engine(engine):
    expected = engine.score_tokens(LISTS)
    results = [None] * 8

    def work(i):
        results[i] = engine.score_tokens(LISTS)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(result, expected) for result in results)


def test_a_call_leaves_torchs_thread_count_alone(folder):
    before = torch.get_num_threads()
    Engine.from_pretrained(folder, num_threads=1).score_tokens(LISTS)
    assert torch.get_num_threads() == before


def test_the_callers_torch_state_stays_out(folder, engine):
    expected = engine.score_tokens(LISTS)
    reference = Engine.from_pretrained(folder, backend="reference")
    truth = reference.score_tokens(LISTS)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert np.array_equal(engine.score_tokens(LISTS), expected)
            assert np.array_equal(reference.score_tokens(LISTS), truth)
    finally:
        torch.set_default_dtype(before)


# A parent whose OpenMP pool exists, and a forked child that has to do without it. Each case is a process of its own.
FORK = """
import os, sys, torch
IMPORT_BEFORE
torch.ones(2048, 2048) @ torch.ones(2048, 2048)
LOAD_BEFORE
child = os.fork()
if child == 0:
    from codescaler.engine import Engine
    score = float(Engine.from_pretrained(sys.argv[1], num_threads=2).score_tokens([[3, 4, 5]])[0])
    USE_PARENTS
    os._exit(0 if abs(score - float(sys.argv[2])) < 1e-6 else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("case", ["imported in the child", "loaded in the child", "loaded in the parent"])
def test_a_forked_child_scores(folder, engine, case):
    load = "from codescaler.engine import Engine; engine = Engine.from_pretrained(sys.argv[1]); "
    parts = {
        "IMPORT_BEFORE": "" if case == "imported in the child" else "import codescaler.engine",
        "LOAD_BEFORE": load + "engine.score_tokens([[1, 2]] * 9)" if case == "loaded in the parent" else "",
        "USE_PARENTS": "assert float(engine.score_tokens([[3, 4, 5]])[0]) == score"
        if case == "loaded in the parent"
        else "",
    }
    code = functools.reduce(lambda text, part: text.replace(*part), parts.items(), FORK)
    score = str(engine.score_tokens([[3, 4, 5]])[0])
    subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", code, str(folder), score], check=True, timeout=120)


def test_auto_takes_the_cpu_where_a_gpu_has_not_the_format(tmp_path, monkeypatch, caplog):
    """A machine with a GPU, whose backend has no int8: an int8 model loads there all the same."""

    class WithoutInt8:
        def supports(self, format):
            return f"backend 'triton' has no {format.name} linear layers"

    def select(name, device_type, **options):
        return WithoutInt8() if device_type == "cuda" else select_backend(name, device_type, **options)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("codescaler.engine.engine.select_backend", select)
    save_random_checkpoint(tmp_path, "qwen3", vocab_size=300, pad_token_id=299)
    save_chat(tmp_path)
    assert Engine.from_pretrained(tmp_path, quantization="int8").device == "cpu"
    assert "device 'auto' passes over the GPU (backend 'triton' has no int8" in caplog.text
    assert Engine.from_pretrained(tmp_path, quantization="int8", backend="cpu").device == "cpu"
    assert "the C++ kernels run on device 'cpu'" in caplog.text
