"""Random checkpoints for tests and benches, written by transformers and PEFT themselves.

Both are imported only when a builder is called; the engine never needs them.
"""

import importlib
import json
import math
import random
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from codescaler.ops import select_backend
from codescaler.plan import plan

_TINY: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen2": ("Qwen2", {}),
    "llama": ("Llama", {}),
    "gemma2": ("Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 8}),
}


def save_random_checkpoint(
    folder: Path,
    family: str,
    architecture: str = "SequenceClassification",
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    max_shard_size: str = "5GB",
    **overrides: Any,
) -> Any:
    """Saves a tiny random model to `folder` and returns its transformers module, in eval mode.

    Norm weights lie around the value that does nothing but away from it, biases are not zero, and the head
    makes scores of about unit scale.

    `family` is "qwen3", "qwen2", "llama" or "gemma2"; `architecture` "SequenceClassification",
    "TokenClassification", "CausalLM", or "AceCodeRM", a causal LM whose module has a `v_head.summary` too.
    `overrides` are settings of the family's configuration class.
    """
    transformers = importlib.import_module("transformers")
    name, settings = _FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(num_labels=1, **(_TINY | settings | overrides))
    task = "CausalLM" if architecture == "AceCodeRM" else architecture
    model = getattr(transformers, f"{name}For{task}")(config).eval()
    if architecture == "AceCodeRM":
        model.v_head = torch.nn.ModuleDict({"summary": torch.nn.Linear(config.hidden_size, 1)})
    _randomize(model, seed, norm_mean=0.0 if family == "gemma2" else 1.0)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    if architecture == "AceCodeRM":
        edit_json(folder / "config.json", architectures=[architecture])
    return model


def save_random_lora(folder: Path, base: Path, *, seed: int = 1, **settings: Any) -> Any:
    """Saves a random LoRA adapter of the base model in `base` to `folder` and returns the PEFT module.

    A causal LM as the base gets a new score head, which the adapter then holds. `settings` are those of
    `peft.LoraConfig`; by default the adapter is a sequence classifier on the query and down projections.
    """
    transformers, peft = importlib.import_module("transformers"), importlib.import_module("peft")
    defaults = {"task_type": "SEQ_CLS", "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    config = peft.LoraConfig(**(defaults | settings))
    suffix = {
        "SEQ_CLS": "SequenceClassification",
        "TOKEN_CLS": "TokenClassification",
        "CAUSAL_LM": "CausalLM",
    }
    auto = getattr(transformers, f"AutoModelFor{suffix[config.task_type]}")
    # Read here, not passed on: a causal LM takes no num_labels.
    base_config = transformers.AutoConfig.from_pretrained(base, num_labels=1)
    with warnings.catch_warnings():
        # PEFT 0.21 reads an attribute that transformers 5.23 deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        model = peft.get_peft_model(auto.from_pretrained(base, config=base_config), config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
    model.save_pretrained(folder)
    return model


def edit_json(path: Path, **changes: Any) -> None:
    """Changes top-level keys of a JSON file; None removes one."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def _randomize(model: torch.nn.Module, seed: int, norm_mean: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(norm_mean, 0.1, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1, generator=generator)
            else:
                # An embedding row is read alone, a linear map sums over its inputs.
                std = 1.0 if "embed" in name else parameter.shape[-1] ** -0.5
                parameter.normal_(0.0, std, generator=generator)


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Rewrites a safetensors file with what `change` makes of its tensors."""
    # Copies, for the tensors read are views of the file that is about to be written over.
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path)


def assert_accurate(result: torch.Tensor, truth: torch.Tensor, peer: torch.Tensor) -> None:
    """Asserts the house's error bound, which is derived and not picked.

    `truth` is the reference in float64; `peer` is PyTorch's result from the same inputs in the precision of
    `result`. The result may be at most twice as far from the truth as the peer is, plus one rounding to its
    own dtype; both for the largest error and for the root mean square. NaN and infinity stand in the same places.
    """
    assert result.shape == truth.shape == peer.shape, (result.shape, truth.shape, peer.shape)
    truth = truth.double()
    is_finite = truth.isfinite()
    assert torch.equal(result.double()[~is_finite].nan_to_num(7.0), truth[~is_finite].nan_to_num(7.0))
    if not is_finite.any():
        return
    rounding = torch.finfo(result.dtype).eps * truth[is_finite].abs()
    errors, peer_errors = ((x.double() - truth)[is_finite].abs() for x in (result, peer))
    for name, norm in (("largest", torch.max), ("RMS", lambda e: e.square().mean().sqrt())):
        error, limit = norm(errors).item(), (2.0 * norm(peer_errors) + norm(rounding)).item()
        assert error <= limit, f"{name} error {error:.3e} is above the bound {limit:.3e}"


# Workloads: what benches measure on, made on the spot and the same on every machine.

_DRAWN_VOCABULARY = 150_000  # below Qwen3's special tokens, so that no padding is drawn
_WEIGHT_STD = 0.02
_WRITE_BLOCK = 1 << 22  # values drawn and written at a time: 16 MB of float32
# Tokens, inputs and outputs of the two products that a machine's peak is taken from: the block of tokens that
# the decoder walks in, so that inputs and outputs stay in the cache, and 0.6B shapes.
_PEAK_TOKENS = 512
_PEAK_SIZES = ((1024, 4096), (3072, 1024))


@dataclass(frozen=True)
class Workload:
    """A batch of token lists of fixed lengths: candidates behind one prompt (none if its length is 0)."""

    prompt_length: int
    candidate_lengths: tuple[int, ...]

    def sequences(self) -> list[list[int]]:
        """Draws the token ids, always the same: the prompt first, then each candidate."""
        draw = random.Random(0).randrange
        prompt = [draw(_DRAWN_VOCABULARY) for _ in range(self.prompt_length)]
        return [prompt + [draw(_DRAWN_VOCABULARY) for _ in range(length)] for length in self.candidate_lengths]

    @property
    def num_padded_tokens(self) -> int:
        """Tokens of one batch padded to its longest sequence."""
        return len(self.candidate_lengths) * (self.prompt_length + max(self.candidate_lengths))

    @property
    def num_real_tokens(self) -> int:
        """Tokens of all sequences, the prompt counted in each."""
        return len(self.candidate_lengths) * self.prompt_length + sum(self.candidate_lengths)

    @property
    def num_distinct_tokens(self) -> int:
        """Tokens that a forward has to compute: the prompt counted once."""
        return self.prompt_length + sum(self.candidate_lengths)


WORKLOADS = {
    "bon8": Workload(512, (246, 274, 383, 257, 548, 125, 309, 148)),
    "bon16": Workload(600, (244, 267, 244, 180, 258, 393, 612, 153, 344, 220, 124, 244, 253, 480, 235, 226)),
    "pairs": Workload(0, (289, 473, 222, 945, 632, 406, 808, 654, 534, 387, 445, 426, 403, 563, 354, 404)),
    "single": Workload(0, (400,)),
}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Qwen3 reward model; `dataclasses.replace(shape, num_layers=4)` is a shallower one."""

    hidden_size: int
    intermediate_size: int
    num_layers: int = 28
    num_heads: int = 16
    num_kv_heads: int = 8
    head_dim: int = 128
    vocab_size: int = 151_936


QWEN3_0_6B = ModelShape(hidden_size=1024, intermediate_size=3072)
QWEN3_1_7B = ModelShape(hidden_size=2048, intermediate_size=6144)


def write_random_rm(folder: Path, shape: ModelShape, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> None:
    """Writes a random `Qwen3ForSequenceClassification` with one label to `folder`, without transformers.

    Weights are normal with mean 0 (norm weights: 1) and std 0.02. They are drawn in blocks straight into
    `model.safetensors`, so no size of model needs memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_qwen3_config(shape, dtype), indent=2))
    sizes = _qwen3_tensor_sizes(shape)
    name = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    header: dict[str, Any] = {}
    end = 0
    for tensor, size in sizes.items():
        start, end = end, end + math.prod(size) * dtype.itemsize
        header[tensor] = {"dtype": name, "shape": size, "data_offsets": [start, end]}
    generator = torch.Generator().manual_seed(seed)
    with (folder / "model.safetensors").open("wb") as file:
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # the format aligns the first tensor to 8 bytes
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor, size in sizes.items():
            mean, left = float("norm" in tensor), math.prod(size)
            while left:
                block = torch.empty(min(left, _WRITE_BLOCK)).normal_(mean, _WEIGHT_STD, generator=generator)
                file.write(block.to(dtype).view(torch.uint8).numpy().data)
                left -= len(block)


def _qwen3_config(shape: ModelShape, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForSequenceClassification"],
        "model_type": "qwen3",
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 40_960,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "hidden_act": "silu",
        "pad_token_id": shape.vocab_size - 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }


def _qwen3_tensor_sizes(shape: ModelShape) -> dict[str, list[int]]:
    """Each tensor's name in the file and its shape."""
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    q_width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    layer = {
        "input_layernorm": [hidden],
        "self_attn.q_proj": [q_width, hidden],
        "self_attn.k_proj": [kv_width, hidden],
        "self_attn.v_proj": [kv_width, hidden],
        "self_attn.q_norm": [shape.head_dim],
        "self_attn.k_norm": [shape.head_dim],
        "self_attn.o_proj": [hidden, q_width],
        "post_attention_layernorm": [hidden],
        "mlp.gate_proj": [ffn, hidden],
        "mlp.up_proj": [ffn, hidden],
        "mlp.down_proj": [hidden, ffn],
    }
    sizes = {"model.embed_tokens": [shape.vocab_size, hidden], "model.norm": [hidden], "score": [1, hidden]}
    for index in range(shape.num_layers):
        sizes |= {f"model.layers.{index}.{name}": size for name, size in layer.items()}
    return {f"{name}.weight": size for name, size in sizes.items()}


def score_flops(shape: ModelShape, sequences: list[list[int]]) -> float:
    """Returns the floating-point operations that scoring `sequences` is worth: those of its distinct tokens.

    Counted are the matrix products: every layer's linear maps once for each distinct (prefix, token), and
    attention for each pair of such a token and a key that it may see. The last layer is counted for all
    tokens, though only the pooled ones need its queries and MLP: this is the ideal of a forward that skips
    nothing but repetition, and an engine that skips more may look better than it. Left out are norms, RoPE,
    softmax and the head.
    """
    q_width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    weights = shape.hidden_size * (2 * q_width + 2 * kv_width + 3 * shape.intermediate_size)
    arrays = [np.array(sequence, dtype=np.int32) for sequence in sequences]
    (tree,) = plan(arrays, max_batch_tokens=sum(map(len, arrays)))
    num_pairs = int(tree.positions.sum()) + tree.num_tokens
    return 2.0 * shape.num_layers * (weights * tree.num_tokens + 2 * q_width * num_pairs)


def score_error_limit(peer: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Returns how far (RMS) bfloat16 scores may lie from float32's: twice as far as a peer's bfloat16 scores,
    such as transformers', plus a thousandth of the scores' mean size.
    """
    return 2.0 * rms_distance(peer, truth) + 1e-3 * float(np.abs(truth).mean())


def rms_distance(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Returns the root mean square of the differences."""
    return float(np.sqrt(np.square(np.subtract(left, right, dtype=np.float64)).mean()))


def matmul_peak(dtype: torch.dtype) -> float:
    """Returns this CPU's peak in FLOP/s, measured now: the better of two linear maps, each a median of 7."""
    backend = select_backend("auto", "cpu")
    peaks = []
    for num_inputs, num_outputs in _PEAK_SIZES:
        x = torch.ones(_PEAK_TOKENS, num_inputs, dtype=dtype)
        packed = backend.pack_linear(torch.ones(num_outputs, num_inputs, dtype=dtype), None)
        backend.linear(x, packed)  # the first call chooses and compiles a kernel
        seconds = statistics.median(_seconds(lambda: backend.linear(x, packed)) for _ in range(7))  # noqa: B023
        peaks.append(2.0 * _PEAK_TOKENS * num_inputs * num_outputs / seconds)
    return max(peaks)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
