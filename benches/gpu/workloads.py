"""Named workloads at the shapes of real models: ours, and transformers as its users run it.

The systems take turns. Truth is our own forward in float32, which transformers confirms. Ours must be as near to it as
a bfloat16 score has to be (see `benches.speed.compare`).
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benches.gpu.parts import Emit, Row, Setting, free_memory
from benches.gpu.random_models import SHAPES, SMALL_SHAPES, SMALL_WORKLOADS, build_ours, build_transformers
from benches.harness.baselines import VARLEN, Float32, PackedScorer, TransformersScorer
from codescaler.engine import Engine
from codescaler.model.decoder import Decoder
from codescaler.ops import select_backend
from codescaler.testing import (
    QWEN3_8B,
    WORKLOADS,
    ModelShape,
    Workload,
    count_score_flops,
    measure_rms_distance,
    measure_seconds,
    score_error_limit,
)
from codescaler.text.encoder import Encoder
from codescaler.types import Fp8Scheme

OURS, DETERMINISTIC, PADDED = "codescaler", "codescaler, deterministic", "transformers, padded, SDPA"
FP8, GRAPHS = "codescaler, fp8", "codescaler, CUDA graphs"
DETERMINISTIC_GRAPHS = f"{DETERMINISTIC}, CUDA graphs"
SORTED, PACKED = "transformers, sorted by fours", "transformers, packed, varlen"
MIN_CHECKED = 8  # sequences that an error is taken over: of fewer, the root mean square says little
PEAK_FLOPS = 989e12  # of an H100's or H200's tensor cores in bfloat16, by the data sheet: MFU is against it

Score = Callable[[list[list[int]]], Float32]


def run(setting: Setting, emit: Emit) -> None:
    transformers.logging.set_verbosity_error()
    for name, shape in (SMALL_SHAPES if setting.is_small else SHAPES).items():
        workloads = SMALL_WORKLOADS if setting.is_small else WORKLOADS
        if all(f"{name} {workload} {DETERMINISTIC}" in setting.done for workload in workloads):
            continue
        truths = _score_in_float32(shape, workloads, setting.device)
        systems = _load(shape, setting)
        for workload_name, workload in workloads.items():
            for row in _measure(systems, shape, workload, truths[workload_name], setting):
                emit(Row(f"{name} {workload_name} {row.name}", row.is_ok, row.figures, row.fault))
        del systems
        free_memory(setting.device)
    emit(_try_sleep(next(iter((SMALL_SHAPES if setting.is_small else SHAPES).values())), setting))


def make_engine(decoder: Decoder, *, cuda_graphs: bool = False) -> Engine:
    """Returns an engine of a model that lies in no folder: token lists are all that it takes."""
    limit = decoder.config.max_positions
    encoder = Encoder((), decoder.config.vocab_size, max_length=limit)
    threads = torch.get_num_threads()
    return Engine(
        decoder,
        encoder,
        folder=Path(),
        num_threads=threads,
        pooling="last",
        max_length=limit,
        cuda_graphs=cuda_graphs,
    )


def _load(shape: ModelShape, setting: Setting) -> dict[str, Score]:
    dtype = torch.float32 if setting.is_small else torch.bfloat16
    model = build_transformers(shape, dtype, setting.device)
    packed = _share_weights(model, VARLEN)
    others: dict[str, Score] = {}
    if shape is QWEN3_8B and select_backend("triton", setting.device.type).supports(Fp8Scheme()) is None:
        others[FP8] = make_engine(build_ours(shape, dtype, setting.device, has_fp8=True)).score_tokens
    if shape is not QWEN3_8B and setting.device.type == "cuda":  # a larger model hides its launches
        for name, is_deterministic in ((GRAPHS, False), (DETERMINISTIC_GRAPHS, True)):
            decoder = build_ours(shape, dtype, setting.device, deterministic=is_deterministic)
            others[name] = make_engine(decoder, cuda_graphs=True).score_tokens
    return others | {
        OURS: make_engine(build_ours(shape, dtype, setting.device)).score_tokens,
        DETERMINISTIC: make_engine(build_ours(shape, dtype, setting.device, deterministic=True)).score_tokens,
        PADDED: TransformersScorer(model).score_tokens,
        SORTED: TransformersScorer(model, batch_size=4).score_tokens,
        PACKED: PackedScorer(packed).score_tokens,
    }


def _share_weights(model: Any, attention: str) -> Any:
    """Returns another model of the same weights, with another attention."""
    config = type(model.config)(**model.config.to_dict())
    config._attn_implementation = attention
    with torch.device("meta"):
        other = type(model)(config)
    other.load_state_dict(model.state_dict(), assign=True)
    other.model.rotary_emb = model.model.rotary_emb  # its buffers are in no state
    return other.eval()


def _score_in_float32(shape: ModelShape, workloads: dict[str, Workload], device: torch.device) -> dict[str, Float32]:
    engine = make_engine(build_ours(shape, torch.float32, device))
    truths = {name: _score_checked(engine.score_tokens, workload) for name, workload in workloads.items()}
    del engine
    free_memory(device)
    return truths


def _score_checked(score: Score, workload: Workload) -> Float32:
    """Returns the scores of as many draws of a workload as make enough sequences to check."""
    num_draws = -(-MIN_CHECKED // len(workload.candidate_lengths))
    return np.concatenate([score(workload.draw_sequences(seed=seed)) for seed in range(num_draws)])


def _try_sleep(shape: ModelShape, setting: Setting) -> Row:
    """An engine gives its memory back, and has the same bits after it."""
    dtype = torch.float32 if setting.is_small else torch.bfloat16
    engine = make_engine(build_ours(shape, dtype, setting.device))
    sequences = [[1, 2, 3], [1, 2, 4, 5]]
    before = engine.score_tokens(sequences)
    if setting.device.type != "cuda":
        return Row("sleep", None)
    awake = torch.cuda.memory_allocated(setting.device)
    seconds = {"sleep": measure_seconds(engine.sleep, setting.device)}
    asleep = torch.cuda.memory_allocated(setting.device)
    seconds["wake"] = measure_seconds(engine.wake, setting.device)
    is_same = np.array_equal(engine.score_tokens(sequences), before)
    figures = {"awake_gib": awake / 2**30, "asleep_gib": asleep / 2**30, "same_bits": int(is_same)}
    figures |= {f"{name}_s": value for name, value in seconds.items()}
    is_ok = is_same and asleep < 0.05 * awake + 2**29  # the buffer that flushes the cache stays
    return Row("sleep", is_ok, figures, "" if is_ok else "memory is held, or bits have changed")


def _measure(
    systems: dict[str, Score], shape: ModelShape, workload: Workload, truth: Float32, setting: Setting
) -> list[Row]:
    scores = {name: _score_checked(score, workload) for name, score in systems.items()}
    for name in systems.keys() & {GRAPHS, DETERMINISTIC_GRAPHS}:  # a size is captured when it comes a second time
        systems[name](workload.draw_sequences())
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(1, setting.num_rounds + 1):
        sequences = workload.draw_sequences(seed=number)
        for name, score in systems.items():
            seconds[name].append(measure_seconds(lambda: score(sequences), setting.device))  # noqa: B023
    flops = count_score_flops(shape, workload.draw_sequences())
    limit = score_error_limit(scores[PADDED], truth)
    rows = []
    for name in systems:
        median_s, error = statistics.median(seconds[name]), measure_rms_distance(scores[name], truth)
        is_ok = bool(error <= limit) if name in (OURS, DETERMINISTIC, GRAPHS, DETERMINISTIC_GRAPHS) else None
        figures = {
            "ms": 1e3 * median_s,
            "speedup": statistics.median(seconds[PADDED]) / median_s,
            "mfu": flops / median_s / PEAK_FLOPS,
            "off_float32": error,
            "limit": limit,
            "scale": float(np.abs(truth).mean()),
        }
        rows.append(Row(name, is_ok, figures, "" if is_ok is not False else "further from float32 than the limit"))
    return rows
