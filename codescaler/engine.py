"""`Engine`: a reward model on one device, from token ids to scores.

Owns the way from lists to a plan, to tensors, to the forward, and back to the order of the caller. Imports no
transformers. Several threads may call one engine, and a forked child may go on using it.
"""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from codescaler.errors import BackendUnavailable, CapacityExceeded, InvalidInput
from codescaler.model.decoder import Decoder, build_decoder
from codescaler.ops import Backend, Tree, select_backend
from codescaler.plan import Int32, plan
from codescaler.types import ModelConfig
from codescaler.weights import open_checkpoint, resolve_folder

Float32 = npt.NDArray[np.float32]
TokenLists = Sequence[Sequence[int] | npt.NDArray[np.integer[Any]]]
Pooling = Literal["hf", "last"]
Truncation = Literal["error", "left", "middle"]
Result = TypeVar("Result")

DEFAULT_BATCH_TOKENS = 8192  # distinct tokens; large enough to fill a machine, activations stay near 150 MB

_log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# All work is done by one thread of our own. Engines of a process take turns on it, since a forward uses all its
# threads as it is; torch's per-thread state (autocast, default device, thread count) of the caller stays out of it;
# and OpenMP's pool belongs to it, so that a forked child, where the parent's pool is gone, gets a new one.
_worker = ThreadPoolExecutor(1, "codescaler")


def _renew_worker() -> None:
    global _worker
    _worker = ThreadPoolExecutor(1, "codescaler")


os.register_at_fork(after_in_child=_renew_worker)


def _work(num_threads: int, call: Callable[[], Result]) -> Result:
    """Runs `call` on the worker; torch, and through it oneDNN and the C++ kernels, may use `num_threads` threads."""

    def run() -> Result:
        torch.set_num_threads(num_threads)
        with torch.inference_mode():
            return call()

    return _worker.submit(run).result()


class Engine:
    """Scores token lists with one reward model. Build one with `Engine.from_pretrained`.

    Attributes:
        config: what the model computes.
        dtype: dtype of weights and activations, "float32" or "bfloat16".
        device: where it runs. backend: name of the backend that runs it.
        num_threads: CPU threads a call may use.
        max_batch_tokens: distinct tokens of one forward, None for the default.
        max_length: tokens of the longest sequence accepted.
        num_truncated: sequences cut so far (only with `truncation` "left" or "middle").
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        num_threads: int,
        max_batch_tokens: int | None,
        pooling: Pooling,
        truncation: Truncation,
        max_length: int,
    ) -> None:
        self.config: ModelConfig = decoder.config
        self.dtype = str(decoder.dtype).removeprefix("torch.")
        self.device = str(decoder.device)
        self.backend = decoder.backend.name
        self.num_threads = num_threads
        self.max_batch_tokens = max_batch_tokens
        self.pooling = pooling
        self.truncation = truncation
        self.max_length = max_length
        self.num_truncated = 0
        self._decoder = decoder

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantization: str | None = None,
        backend: str = "auto",
        num_threads: int | None = None,
        max_batch_tokens: int | None = None,
        pooling: Pooling = "hf",
        truncation: Truncation = "error",
        max_length: int | None = None,
        head: Literal["required", "none"] = "required",
        base_model: str | Path | None = None,
        deterministic: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> "Engine":
        """Loads a reward model.

        Args:
            model: a Hugging Face folder (or a PEFT LoRA folder), or a hub id. A local folder must stay as it is
                while the engine lives: the embedding is read from the mapped file.
            device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ...
            dtype: "auto" is the checkpoint's, but float32 for float16 on a CPU and for bfloat16 on a CPU without
                a bfloat16 unit; or "float32", "bfloat16".
            quantization: None; no other value is supported yet.
            backend: "auto", "cpu" (C++), or "reference" (plain PyTorch, any device).
            num_threads: CPU threads a call may use; None means torch's setting.
            max_batch_tokens: distinct tokens (a shared prefix counts once) in one forward. None means 8192, and a
                longer sequence runs alone; a number is a hard limit, and a longer sequence is refused.
            pooling: "hf" scores the token that transformers scores: in sequence classification the right-most
                one that is not the pad token (the first if all are), else the last. "last": always the last.
            truncation: what to do above `max_length`: "error", or cut away the "left" or the "middle".
            max_length: tokens a sequence may have; None means the model's number of positions.
            head: "required" refuses a model without a reward head; "none" loads any supported causal LM, and
                only features can be asked for.
            base_model: folder or hub id of a LoRA folder's base; None means what the folder names.
            deterministic: accepted for GPUs to come; on a CPU results are bit-identical in any batch as it is.
            revision: branch, tag or commit of `model` on the hub.
            local_files_only: never ask the hub, only its local cache.

        Raises:
            InvalidInput: an argument is not one of the above. BackendUnavailable: the device or backend is not here.
            WeightsError, UnsupportedModel: the checkpoint cannot be used; the message says why.
        """
        _choose("pooling", pooling, ("hf", "last"))
        _choose("truncation", truncation, ("error", "left", "middle"))
        _choose("head", head, ("required", "none"))
        _choose("dtype", dtype, ("auto", "float32", "bfloat16"))
        for name, count in (
            ("num_threads", num_threads),
            ("max_batch_tokens", max_batch_tokens),
            ("max_length", max_length),
        ):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise InvalidInput(f"{name}={count!r}; give a whole number of at least 1, or None")
        if quantization is not None:
            raise InvalidInput(f"quantization={quantization!r} is not supported yet; use quantization=None")
        if model is None:
            raise InvalidInput("no model ships with this version of codescaler; give a folder or a hub id")
        target = _select_device(device)
        threads = num_threads or torch.get_num_threads()
        folder = resolve_folder(model, revision=revision, local_files_only=local_files_only)
        checkpoint = open_checkpoint(folder, head=head, base_model=base_model, local_files_only=local_files_only)

        def build() -> Decoder:
            chosen = select_backend(backend, target.type)
            torch_dtype = _select_dtype(dtype, checkpoint.config.dtype, target, chosen)
            return build_decoder(checkpoint.config, checkpoint.get, chosen, torch_dtype, target)

        decoder = _work(threads, build)
        return cls(
            decoder,
            num_threads=threads,
            max_batch_tokens=max_batch_tokens,
            pooling=pooling,
            truncation=truncation,
            max_length=max_length or checkpoint.config.max_positions,
        )

    def __repr__(self) -> str:
        config = self.config
        return (
            f"Engine({config.architecture}, {config.num_layers} layers, hidden {config.hidden_size}, {self.dtype}, "
            f"{self.device}, backend {self.backend!r} ({self._decoder.backend.description}), "
            f"{self.num_threads} threads, pooling {self.pooling!r})"
        )

    def score_tokens(self, ids: TokenLists) -> Float32:
        """Returns each token list's raw (unbounded) reward. Shapes: B lists -> [B], float32.

        Raises:
            InvalidInput: an empty list, an id that is no integer of the vocabulary, or a list longer than
                `max_length`; or the model was loaded with head="none".
            CapacityExceeded: a list is longer than `max_batch_tokens`. Both come before any work is done.
        """
        if self._decoder.head_weight is None:
            raise InvalidInput("this engine was loaded with head='none' and has no scores; use features_tokens")
        return self._run(ids)[1]

    def features_tokens(self, ids: TokenLists) -> Float32:
        """Returns the final-norm hidden state at each list's pooled token. Shapes: B lists -> [B, D], float32.

        Raises: as `score_tokens`, but for the head, which is not needed.
        """
        return self._run(ids)[0]

    def _run(self, ids: TokenLists) -> tuple[Float32, Float32]:
        prepared = [self._prepare(index, tokens) for index, tokens in enumerate(_as_lists(ids))]
        batches = plan([tokens for tokens, _ in prepared], self.max_batch_tokens or DEFAULT_BATCH_TOKENS)
        features = np.empty((len(prepared), self.config.hidden_size), dtype=np.float32)
        scores = np.empty(len(prepared), dtype=np.float32)

        def forward() -> None:
            self.num_truncated += sum(was_cut for _, was_cut in prepared)
            for batch in batches:
                batch_features, batch_scores = self._decoder.forward(Tree.from_batch(batch, self._decoder.device))
                features[batch.sequences] = batch_features.cpu().numpy()
                if batch_scores is not None:
                    scores[batch.sequences] = batch_scores.cpu().numpy()

        _work(self.num_threads, forward)
        return features, scores

    def _prepare(self, index: int, tokens: object) -> tuple[Int32, bool]:
        """Checks one token list, cuts it after the token that is pooled, and truncates it as asked.

        What follows the pooled token cannot influence a causal model's score, so it does not count as length.
        Returns the list and whether it was truncated.
        """
        sequence = _as_ids(index, tokens, self.config.vocab_size)
        if self.pooling == "hf" and self.config.head == "sequence_classification":
            sequence = sequence[: _hf_pooled_index(sequence, self.config.pad_token_id) + 1]
        was_cut = len(sequence) > self.max_length
        if was_cut:
            sequence = self._truncate(index, sequence)
        if self.max_batch_tokens is not None and len(sequence) > self.max_batch_tokens:
            raise CapacityExceeded(
                f"sequence {index} has {len(sequence)} tokens, more than max_batch_tokens={self.max_batch_tokens}; "
                "raise max_batch_tokens or shorten the sequence"
            )
        return sequence, was_cut

    def _truncate(self, index: int, sequence: Int32) -> Int32:
        if self.truncation == "error":
            raise InvalidInput(
                f"sequence {index} has {len(sequence)} tokens, more than max_length={self.max_length}; shorten it, or "
                "load the engine with truncation='left' or 'middle'"
            )
        head = self.max_length // 2 if self.truncation == "middle" else 0
        return np.concatenate([sequence[:head], sequence[len(sequence) - self.max_length + head :]])


def _as_lists(ids: TokenLists) -> Sequence[object]:
    if isinstance(ids, (str, bytes)) or not isinstance(ids, (Sequence, np.ndarray)):
        raise InvalidInput(f"ids is a {type(ids).__name__}; give a list of token-id lists")
    return list(ids)


def _as_ids(index: int, tokens: object, vocab_size: int) -> Int32:
    """One token list as a 1-D int32 array, every id checked against the vocabulary."""
    if isinstance(tokens, (str, bytes, bool, int)):
        raise InvalidInput(f"ids[{index}] is {tokens!r:.80}; give a list of token-id lists")
    if not isinstance(tokens, np.ndarray) and bool in set(map(type, tokens)):  # type: ignore[call-overload]
        raise InvalidInput(f"ids[{index}] holds bool values, not integers")
    try:
        array = np.asarray(tokens)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"ids[{index}] is not a flat list of integers ({error})") from error
    if array.ndim != 1:
        raise InvalidInput(f"ids[{index}] has shape {array.shape}; give a flat list of token ids")
    if not len(array):
        raise InvalidInput(f"ids[{index}] is empty; a sequence needs at least one token")
    if array.dtype.kind not in "iu":
        raise InvalidInput(f"ids[{index}] holds {array.dtype} values, not integers, e.g. {array[0]!r:.80}")
    outside = (array < 0) | (array >= vocab_size)
    if outside.any():
        at = int(outside.argmax())
        raise InvalidInput(
            f"ids[{index}][{at}] is {array[at]}, outside the vocabulary 0..{vocab_size - 1}; "
            "use the tokenizer of this model"
        )
    return array.astype(np.int32)


def _hf_pooled_index(sequence: Int32, pad_token_id: int | None) -> int:
    """Index of the token that transformers pools in sequence classification."""
    if pad_token_id is None:
        return len(sequence) - 1
    real = np.flatnonzero(sequence != pad_token_id)
    return int(real[-1]) if len(real) else 0


def _choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, allowed))}")


def _select_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise InvalidInput(f"device={device!r} is no device name ({error}); try 'cpu' or 'cuda'") from error
    if target.type not in ("cpu", "cuda"):
        raise InvalidInput(f"device={device!r} is not supported; use 'cpu' or 'cuda'")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if target.type == "cuda" and (target.index or 0) >= count:
        raise BackendUnavailable(f"device={device!r}: torch sees {count} GPUs; use device='cpu' or another index")
    return target


def _select_dtype(dtype: str, saved: str, device: torch.device, backend: Backend) -> torch.dtype:
    """The dtype to compute in; every change from the checkpoint's own is logged."""
    wanted = saved if dtype == "auto" else dtype
    if dtype == "auto" and device.type == "cpu":
        is_slow = wanted == "float16" or (wanted == "bfloat16" and not backend.has_bf16_unit)
        if is_slow:
            _log.info("checkpoint is %s; computing in float32, which this CPU is faster and no less exact in", saved)
            wanted = "float32"
    return _DTYPES[wanted]
