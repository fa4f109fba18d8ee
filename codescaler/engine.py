"""`Engine`: a reward model on one device, from text or token ids to scores and rankings.

Owns the way from text to token lists, to a plan, to tensors, to the forward, and back to the order of the caller.
Imports no transformers. Several threads may call one engine, and a forked child may go on using it.
"""

import contextlib
import functools
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from codescaler.chat import Chat, Pair, load_chat, messages_of
from codescaler.errors import BackendUnavailable, CapacityExceeded, CodescalerError, InvalidInput, WeightsError
from codescaler.extract import extract_training_code, is_valid_code
from codescaler.model.decoder import Decoder, GetTensor, build_decoder
from codescaler.model.quantized import quantized
from codescaler.ops import Backend, Tree, select_backend
from codescaler.plan import Int32, plan
from codescaler.quantize import choose_int8
from codescaler.resumable import digest_of
from codescaler.token_ids import TokenLists, Truncation, checked_ids, checked_lists, hf_pooled_index, truncated
from codescaler.types import ModelConfig, QuantScheme, RankedCandidate
from codescaler.weights import open_checkpoint, resolve_folder

Float32 = npt.NDArray[np.float32]
Pooling = Literal["hf", "last"]
Result = TypeVar("Result")

DEFAULT_BATCH_TOKENS = 8192  # distinct tokens; large enough to fill a machine, activations stay near 150 MB

TEXT_WINDOW = 256  # pairs tokenised at a time; siblings of one problem mostly fall into one window

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


def _submit(num_threads: int, call: Callable[[], Result]) -> Future[Result]:
    """Has `call` run on the worker; torch, and through it oneDNN and the C++ kernels, may use `num_threads` threads."""

    def run() -> Result:
        torch.set_num_threads(num_threads)
        with torch.inference_mode():
            return call()

    return _worker.submit(run)


class Engine:
    """Scores token lists with one reward model. Build one with `Engine.from_pretrained`.

    Attributes:
        config: what the model computes. folder: that it was loaded from.
        dtype: dtype of weights and activations, "float32" or "bfloat16".
        quantization: "int8" if there are linear maps in 8 bits, else None; `config.int8_linears` names them.
        device: where it runs. backend: name of the backend that runs it.
        num_threads: CPU threads a call may use.
        max_batch_tokens: distinct tokens of one forward, None for the default.
        max_length: tokens of the longest sequence accepted.
        num_truncated: sequences cut so far (only with `truncation` "left" or "middle").
        num_tokens, num_distinct_tokens: tokens so far of the sequences, and of those the ones computed.
        text_seconds, forward_seconds: time so far spent on text, and by the worker; the two overlap.
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
        chat_folders: tuple[Path, Path | None],
    ) -> None:
        self.config: ModelConfig = decoder.config
        self.folder = chat_folders[0]
        self.dtype = str(decoder.dtype).removeprefix("torch.")
        self.quantization = "int8" if decoder.config.int8_linears else None
        self.device = str(decoder.device)
        self.backend = decoder.backend.name
        self.num_threads = num_threads
        self.max_batch_tokens = max_batch_tokens
        self.pooling = pooling
        self.truncation = truncation
        self.max_length = max_length
        self.num_truncated = self.num_tokens = self.num_distinct_tokens = 0
        self.text_seconds = self.forward_seconds = 0.0
        self._decoder = decoder
        self._chat_folders = chat_folders  # read on first use: a folder without tokenizer or template loads

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
            model: a Hugging Face folder (or a PEFT LoRA folder), or a hub id; None is nano, the reward model in the
                package, and so is "nano" unless a local folder has that name. A local folder must stay as it is while
                the engine lives: the embedding is read from the mapped file.
            device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ...
            dtype: "auto" is the checkpoint's, but float32 for float16 on a CPU and for bfloat16 on a CPU without
                a bfloat16 unit; or "float32", "bfloat16".
            quantization: None leaves the weights as the folder has them, which may be int8; "int8" quantises the
                others now, but for maps that would change rankings (see `codescaler.quantize`). It measures for
                seconds to minutes; `codescaler quantize` does so once. CPUs only.
            backend: "auto", "cpu" (C++), "triton" (GPUs), or "reference" (plain PyTorch, any device).
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
            deterministic: on a CPU results are bit-identical in any batch as it is; on a GPU True is refused, since
                its matrix products may give a row other bits in a batch of another size.
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
            require_count(name, count)
        if quantization not in (None, "int8"):
            raise InvalidInput(f"quantization={quantization!r} is unknown; choose None or 'int8'")
        target = select_device(device)
        if deterministic and target.type == "cuda":
            raise BackendUnavailable(
                f"deterministic=True cannot be kept on {device!r}: a GPU's matrix products sum a row in an order that "
                "depends on the size of the batch; use device='cpu', or deterministic=False"
            )
        threads = num_threads or torch.get_num_threads()
        folder = resolve_folder(model, revision=revision, local_files_only=local_files_only)
        checkpoint = open_checkpoint(folder, head=head, base_model=base_model, local_files_only=local_files_only)

        def build() -> Decoder:
            with _current(target):
                chosen = select_backend(backend, target.type)
                torch_dtype = _select_dtype(dtype, checkpoint.config.dtype, target, chosen)
                config: ModelConfig = checkpoint.config
                get: GetTensor = checkpoint.get
                schemes = set(config.int8_linears.values()) or ({QuantScheme(8, True)} if quantization else set())
                for reason in filter(None, map(chosen.supports, schemes)):
                    raise BackendUnavailable(reason)
                if quantization and not config.int8_linears:
                    config = replace(config, int8_linears=choose_int8(checkpoint, chosen).linears)
                    get = quantized(get, config.int8_linears)
                return build_decoder(config, get, chosen, torch_dtype, target)

        decoder = _submit(threads, build).result()
        return cls(
            decoder,
            num_threads=threads,
            max_batch_tokens=max_batch_tokens,
            pooling=pooling,
            truncation=truncation,
            max_length=max_length or checkpoint.config.max_positions,
            chat_folders=(checkpoint.folder, checkpoint.base_folder),
        )

    def __repr__(self) -> str:
        config = self.config
        bits = [rounding.bits for rounding in config.int8_linears.values()]
        int8 = f", {len(bits)} of {7 * config.num_layers} linear maps int8 ({bits.count(8)} with activations of 8 bits)"
        return (
            f"Engine({config.architecture}, {config.num_layers} layers, hidden {config.hidden_size}, {self.dtype}"
            f"{int8 if bits else ''}, {self.device}, backend {self.backend!r} ({self._decoder.backend.description}), "
            f"{self.num_threads} threads, pooling {self.pooling!r})"
        )

    @functools.cached_property
    def head_digest(self) -> str:
        """Names the reward head, and so the model that was trained with it: 16 hexadecimal digits.

        The same in every dtype and on every device, since a head is never rounded.
        """
        self._require_head()
        tensors = (self._decoder.head_weight, self._decoder.head_bias)
        return digest_of(b"" if tensor is None else tensor.cpu().numpy().tobytes() for tensor in tensors)

    def score_tokens(self, ids: TokenLists) -> Float32:
        """Returns each token list's raw (unbounded) reward. Shapes: B lists -> [B], float32.

        Raises:
            InvalidInput: an empty list, an id that is no integer of the vocabulary, or a list longer than
                `max_length`; or the model was loaded with head="none".
            CapacityExceeded: a list is longer than `max_batch_tokens`. Both come before any work is done.
        """
        self._require_head()
        return self._run(ids)[1]

    def features_tokens(self, ids: TokenLists) -> Float32:
        """Returns the final-norm hidden state at each list's pooled token. Shapes: B lists -> [B, D], float32.

        Raises: as `score_tokens`, but for the head, which is not needed.
        """
        return self._run(ids)[0]

    def score(self, pairs: Sequence[Pair]) -> Float32:
        """Returns the raw reward of each (problem, response), or of each list of messages. Shapes: B pairs -> [B].

        The text is rendered by the checkpoint's own chat template. CodeScaler scores the extracted program alone as the
        response: no fences, no prose. An empty response is scored like any other.

        Raises:
            InvalidInput: a pair is malformed, or too long, or the model was loaded with head="none".
            WeightsError: the checkpoint has no tokenizer or template, or they fail.
            CapacityExceeded: as `score_tokens`.
        """
        return np.fromiter(self.score_stream(_listed(pairs)), dtype=np.float32)

    def features(self, pairs: Sequence[Pair]) -> Float32:
        """Returns the final-norm hidden state at each pair's pooled token. Shapes: B pairs -> [B, D], float32.

        Raises: as `score`, but for the head, which is not needed.
        """
        return np.concatenate(
            [np.empty((0, self.config.hidden_size), np.float32), *self.feature_stream(_listed(pairs))]
        )

    def score_stream(self, pairs: Iterable[Pair], names: Iterable[str] | None = None) -> Iterator[float]:
        """Yields the raw reward of one pair after the other; the pairs need not fit into memory.

        Reads at most 512 pairs ahead of what it has yielded. `names` are what errors call the pairs, by default
        "pairs[0]", "pairs[1]", ...

        Raises: as `score`, when it comes to the pair; what was computed before has been yielded by then.
        """
        self._require_head()
        for _, scores in self._windows(pairs, names or _numbered("pairs")):
            yield from scores.tolist()

    def feature_stream(self, pairs: Iterable[Pair], names: Iterable[str] | None = None) -> Iterator[Float32]:
        """Yields the features of a few hundred pairs after the other, each time [n, D]; as `score_stream`."""
        for features, _ in self._windows(pairs, names or _numbered("pairs")):
            yield features

    def rerank(
        self,
        problem: str,
        candidates: Sequence[str],
        extract: bool = False,
        top_k: int | None = None,
        *,
        language: str = "python",
        names: Sequence[str] | None = None,
    ) -> list[RankedCandidate]:
        """Returns the candidates best first: valid ones before invalid, then by score, ties by index.

        With `extract`, candidates are completions: the training extractor takes the program out of each, and one
        without a program that parses is invalid and has no score. Without, each is scored as it stands, and is valid
        if it parses as a program of `language`, one of `codescaler.extract.LANGUAGES`. `top_k` keeps that many. `names`
        are what errors call the candidates, by default "candidate 0", "candidate 1", ...

        Raises:
            InvalidInput: an argument is not usable; as `score`. WeightsError: a score is not finite; as `score`.
        """
        if not isinstance(problem, str):
            raise InvalidInput(f"problem is a {type(problem).__name__}; give its text")
        if not _is_list(candidates) or not all(isinstance(text, str) for text in candidates):
            raise InvalidInput("candidates is not a list of strings; give one string for each candidate program")
        require_count("top_k", top_k)
        names = names or [f"candidate {index}" for index in range(len(candidates))]
        codes = [extract_training_code(text, language) if extract else text for text in candidates]
        pairs = {index: (problem, code) for index, code in enumerate(codes) if code is not None}
        scores = dict(zip(pairs, self.score_stream(pairs.values(), [names[i] for i in pairs]), strict=True))
        for index, score in scores.items():
            if not math.isfinite(score):
                raise WeightsError(f"{names[index]} scores {score}; look for non-finite weights in this checkpoint")
        ranked = [
            RankedCandidate(
                index, scores.get(index), code is not None and (extract or is_valid_code(code, language)), code
            )
            for index, code in enumerate(codes)
        ]
        ranked.sort(key=lambda c: (not c.is_valid, -math.inf if c.score is None else -c.score, c.index))
        return ranked[:top_k]

    def _run(self, ids: TokenLists) -> tuple[Float32, Float32]:
        lists = [(f"ids[{index}]", tokens) for index, tokens in enumerate(checked_lists(ids))]
        return self._start(lists).result()

    def _windows(self, pairs: Iterable[Pair], names: Iterable[str]) -> Iterator[tuple[Float32, Float32]]:
        """Yields features and scores of TEXT_WINDOW pairs at a time, in order.

        A window is rendered and tokenised, and its forward queued, while the forward of the window before runs. What
        has been computed is yielded before an error of a later window is raised.
        """
        named = zip(names, pairs, strict=False)
        running: Future[tuple[Float32, Float32]] | None = None
        while True:
            try:
                following = self._start_window(list(itertools.islice(named, TEXT_WINDOW)))
            except CodescalerError:
                if running is not None:
                    yield running.result()
                raise
            if running is not None:
                yield running.result()
            if following is None:
                return
            running = following

    def _start_window(self, window: Sequence[tuple[str, Pair]]) -> "Future[tuple[Float32, Float32]] | None":
        if not window:
            return None
        started = time.perf_counter()
        names = [name for name, _ in window]
        ids = self._chat.encode([self._chat.render(messages_of(pair, name)) for name, pair in window], names)
        self.text_seconds += time.perf_counter() - started
        return self._start(list(zip(names, ids, strict=True)))

    @functools.cached_property
    def _chat(self) -> Chat:
        return load_chat(*self._chat_folders)

    def _require_head(self) -> None:
        if self._decoder.head_weight is None:
            raise InvalidInput("this engine was loaded with head='none' and has no scores; ask for features")

    def _start(self, lists: Sequence[tuple[str, object]]) -> "Future[tuple[Float32, Float32]]":
        """Checks named token lists, and has their features and scores computed."""
        prepared = [self._prepare(name, tokens) for name, tokens in lists]
        batches = plan([tokens for tokens, _ in prepared], self.max_batch_tokens or DEFAULT_BATCH_TOKENS)

        def forward() -> tuple[Float32, Float32]:
            started = time.perf_counter()
            features = np.empty((len(prepared), self.config.hidden_size), dtype=np.float32)
            scores = np.full(len(prepared), np.nan, dtype=np.float32)
            device = self._decoder.device
            with _current(device):
                # A GPU is waited for once all batches are under way, so that it never waits for us.
                results = [self._decoder.forward(Tree.from_batch(batch, device)) for batch in batches]
                for batch, (batch_features, batch_scores) in zip(batches, results, strict=True):
                    features[batch.sequences] = batch_features.cpu().numpy()
                    if batch_scores is not None:
                        scores[batch.sequences] = batch_scores.cpu().numpy()
            self.num_truncated += sum(was_cut for _, was_cut in prepared)
            self.num_tokens += sum(len(tokens) for tokens, _ in prepared)
            self.num_distinct_tokens += sum(batch.num_tokens for batch in batches)
            self.forward_seconds += time.perf_counter() - started
            return features, scores

        return _submit(self.num_threads, forward)

    def _prepare(self, name: str, tokens: object) -> tuple[Int32, bool]:
        """Checks one token list, cuts it after the token that is pooled, and truncates it as asked.

        What follows the pooled token cannot influence a causal model's score, so it does not count as length.
        Returns the list and whether it was truncated.
        """
        sequence = checked_ids(name, tokens, self.config.vocab_size)
        if self.pooling == "hf" and self.config.head == "sequence_classification":
            sequence = sequence[: hf_pooled_index(sequence, self.config.pad_token_id) + 1]
        was_cut = len(sequence) > self.max_length
        if was_cut:
            sequence = truncated(name, sequence, self.max_length, self.truncation)
        if self.max_batch_tokens is not None and len(sequence) > self.max_batch_tokens:
            raise CapacityExceeded(
                f"{name} has {len(sequence)} tokens, more than max_batch_tokens={self.max_batch_tokens}; "
                "raise max_batch_tokens or shorten the sequence"
            )
        return sequence, was_cut


def _choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, allowed))}")


def require_count(name: str, count: int | None) -> None:
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise InvalidInput(f"{name}={count!r}; give a whole number of at least 1, or None")


def _listed(pairs: Sequence[Pair]) -> Sequence[Pair]:
    if not _is_list(pairs):
        raise InvalidInput(f"pairs is a {type(pairs).__name__}; give a list of (problem, response) pairs")
    return pairs


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _numbered(name: str) -> Iterator[str]:
    return (f"{name}[{index}]" for index in itertools.count())


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Makes a GPU the current one, on which Triton launches, whatever GPU the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def select_device(device: str) -> torch.device:
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
