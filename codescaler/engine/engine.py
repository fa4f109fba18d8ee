"""`Engine`: a reward model on one device, from text or token ids to scores and rankings.

Encodes on the caller's thread and queues; `scheduler` and `forward` do the rest. Imports no transformers. Several
threads and event loops may call one engine, and a forked child may go on using it.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from codescaler.checkpoint.download import resolve_folder
from codescaler.checkpoint.load import Checkpoint, open_checkpoint
from codescaler.engine import worker
from codescaler.engine.forward import ForwardRunner
from codescaler.engine.intake import Intake, require_list
from codescaler.engine.options import make_current, require_choice, require_count, select_device, select_dtype
from codescaler.engine.ranking import rank_candidates
from codescaler.engine.scheduler import Float32, Scheduler
from codescaler.errors import BackendUnavailable, InvalidInput
from codescaler.io.resumable import compute_digest
from codescaler.model.decoder import Decoder, GetTensor, build_decoder
from codescaler.ops import explain_unavailable, select_backend
from codescaler.text.chat import Pair
from codescaler.text.encoder import Encoder, build_encoder
from codescaler.text.token_ids import Pooling, TokenLists, Truncation
from codescaler.types import ActivationBits, Fp8Scheme, ModelConfig, Quantization, QuantScheme, RankedCandidate, Scheme

DEFAULT_BATCH_TOKENS = 8192  # distinct tokens; large enough to fill a machine, activations stay near 150 MB


class Engine:
    """Scores token lists with one reward model. Build one with `Engine.from_pretrained`.

    Attributes:
        config: what the model computes. folder: that it was loaded from.
        dtype: dtype of weights and activations, "float32" or "bfloat16".
        quantization: "int8" or "fp8" if there are linear layers in 8 bits, else None; `config.quantized_linears` has
            their names.
        device: where it runs. backend: name of the backend that runs it.
        max_batch_tokens: distinct tokens of one forward, None for the default.
        pooling, truncation: as in `from_pretrained`. max_length: tokens of the longest sequence accepted.
        scheduler: the queue of all callers, with settings for servers.
    """

    def __init__(
        self,
        decoder: Decoder,
        encoder: Encoder,
        *,
        folder: Path,
        num_threads: int,
        pooling: Pooling,
        max_length: int,
    ) -> None:
        self.config: ModelConfig = decoder.config
        self.folder = folder
        self.dtype = str(decoder.dtype).removeprefix("torch.")
        self.quantization = decoder.config.quantization
        self.device = str(decoder.device)
        self.backend = decoder.backend.name
        self.max_batch_tokens = encoder.max_batch_tokens
        self.pooling = pooling
        self.truncation = encoder.truncation
        self.max_length = max_length
        self._decoder = decoder
        budget = self.max_batch_tokens or DEFAULT_BATCH_TOKENS
        self._runner = ForwardRunner(decoder, budget)
        self.scheduler = Scheduler(self._runner, budget=budget, num_threads=num_threads)
        self._intake = Intake(encoder, self.scheduler)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantization: Quantization | None = None,
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
            device: "auto" (a GPU where there is one that has the formats of the model), "cpu", "cuda", "cuda:1", ...
            dtype: "auto" is the checkpoint's, but float32 for float16 on a CPU and for bfloat16 on a CPU without
                a bfloat16 unit; or "float32", "bfloat16".
            quantization: None leaves the weights as the folder has them, which may be int8; "int8" or "fp8" quantises
                the others now, for linear layers that would change rankings (see `codescaler.quantize.sensitivity`). It
                measures for seconds to minutes; `codescaler quantize` does so once. fp8 is for GPUs from sm_89 on.
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
            deterministic: results are bit-identical in any batch. On a CPU they are as it is. On a GPU True takes our
                own matrix products, since those of torch may give a row other bits in a batch of another size.
            revision: branch, tag or commit of `model` on the hub.
            local_files_only: never ask the hub, only its local cache.

        Raises:
            InvalidInput: an argument is not one of the above. BackendUnavailable: the device or backend is not here.
            WeightsError, UnsupportedModel: the checkpoint cannot be used; the message says why.
        """
        require_choice("pooling", pooling, ("hf", "last"))
        require_choice("truncation", truncation, ("error", "left", "middle"))
        require_choice("head", head, ("required", "none"))
        require_choice("dtype", dtype, ("auto", "float32", "bfloat16"))
        require_choice("quantization", quantization, (None, "int8", "fp8"))
        require_count("num_threads", num_threads)
        require_count("max_batch_tokens", max_batch_tokens)
        require_count("max_length", max_length)
        folder = resolve_folder(model, revision=revision, local_files_only=local_files_only)
        checkpoint = open_checkpoint(folder, head=head, base_model=base_model, local_files_only=local_files_only)
        target = select_device(device, _explain_no_gpu(backend, _list_schemes(checkpoint.config, quantization)))
        threads = num_threads or torch.get_num_threads()
        limit = max_length or checkpoint.config.max_positions
        build = partial(_build_decoder, checkpoint, target, dtype, quantization, backend, deterministic)
        return cls(
            worker.submit(threads, build).result(),
            build_encoder(
                checkpoint,
                pooling=pooling,
                truncation=truncation,
                max_length=limit,
                max_batch_tokens=max_batch_tokens,
            ),
            folder=checkpoint.folder,
            num_threads=threads,
            pooling=pooling,
            max_length=limit,
        )

    def __repr__(self) -> str:
        config = self.config
        bits = [scheme.bits for scheme in config.quantized_linears.values()]
        quantised = (
            f", {len(bits)} of {7 * config.num_layers} linear layers {self.quantization} "
            f"({bits.count(8)} with activations of 8 bits)"
        )
        return (
            f"Engine({config.architecture}, {config.num_layers} layers, hidden {config.hidden_size}, {self.dtype}"
            f"{quantised if bits else ''}, {self.device}, "
            f"backend {self.backend!r} ({self._decoder.backend.description}), "
            f"{self.num_threads} threads, pooling {self.pooling!r})"
        )

    @property
    def num_threads(self) -> int:
        """CPU threads that a call may use."""
        return self.scheduler.num_threads

    @property
    def num_truncated(self) -> int:
        """Sequences cut so far (only with `truncation` "left" or "middle")."""
        return self._runner.num_truncated

    @property
    def num_tokens(self) -> int:
        """Tokens of the sequences so far."""
        return self._runner.num_tokens

    @property
    def num_distinct_tokens(self) -> int:
        """Tokens computed so far: a prefix that sequences of one forward share counts once."""
        return self._runner.num_distinct_tokens

    @property
    def text_seconds(self) -> float:
        """Time that callers' threads have spent on text so far; it overlaps with `forward_seconds`."""
        return self._runner.text_seconds

    @property
    def forward_seconds(self) -> float:
        """Time that the worker has spent on forwards so far."""
        return self._runner.forward_seconds

    @cached_property
    def head_digest(self) -> str:
        """Names the reward head, and so the model that was trained with it: 16 hexadecimal digits.

        The same in every dtype and on every device, since a head is never rounded.
        """
        self._require_head()
        tensors = (self._decoder.head_weight, self._decoder.head_bias)
        return compute_digest(b"" if tensor is None else tensor.cpu().numpy().tobytes() for tensor in tensors)

    def score_tokens(self, ids: TokenLists) -> Float32:
        """Returns each token list's raw (unbounded) reward. Shapes: B lists -> [B], float32.

        Raises:
            InvalidInput: an empty list, an id that is no integer of the vocabulary, or a list longer than
                `max_length`; or the model was loaded with head="none".
            CapacityExceeded: a list is longer than `max_batch_tokens`. Both come before any work is done.
        """
        self._require_head()
        return self._intake.put_tokens(ids).result()

    def features_tokens(self, ids: TokenLists) -> Float32:
        """Returns the final-norm hidden state at each list's pooled token. Shapes: B lists -> [B, D], float32.

        Raises: as `score_tokens`, but for the head, which is not needed.
        """
        return self._intake.put_tokens(ids, wants_features=True).result()

    def score(self, pairs: Sequence[Pair]) -> Float32:
        """Returns the raw reward of each (problem, response), or of each list of messages. Shapes: B pairs -> [B].

        The text is rendered by the checkpoint's own chat template. CodeScaler scores the extracted program alone as the
        response: no fences, no prose. An empty response is scored like any other. Calls at the same time, from several
        threads, share a forward and the prefixes that their pairs have in common.

        Raises:
            InvalidInput: a pair is malformed, or too long, or the model was loaded with head="none".
            WeightsError: the checkpoint has no tokenizer or template, or they fail.
            CapacityExceeded: as `score_tokens`.
        """
        return np.fromiter(self.score_stream(require_list(pairs)), dtype=np.float32)

    def submit(
        self, pairs: Sequence[Pair], *, client: str | None = None, deadline: float | None = None
    ) -> Future[Float32]:
        """Encodes pairs now and returns a future of their scores, which may be cancelled while it waits.

        `deadline` is a time by `time.monotonic`: if the pairs still wait then, the future raises `DeadlineExceeded`.
        `client` is for a `scheduler.select` of your own. The future's callbacks run on the thread that computes: they
        may submit, but must not wait for a score.

        Raises: as `score`.
        """
        self._require_head()
        return self._intake.put_pairs(pairs, client=client, deadline=deadline)

    async def score_async(
        self, pairs: Sequence[Pair], *, client: str | None = None, deadline: float | None = None
    ) -> Float32:
        """Returns what `score` does, and leaves the event loop free: pairs are encoded on a thread of its executor.

        Cancelling the task takes the pairs out of the queue if they still wait.

        Raises: as `submit`.
        """
        self._require_head()
        return await self._intake.compute_pairs(pairs, client=client, deadline=deadline)

    def features(self, pairs: Sequence[Pair]) -> Float32:
        """Returns the final-norm hidden state at each pair's pooled token. Shapes: B pairs -> [B, D], float32.

        Raises: as `score`, but for the head, which is not needed.
        """
        windows = self.feature_stream(require_list(pairs))
        return np.concatenate([np.empty((0, self.config.hidden_size), np.float32), *windows])

    def score_stream(self, pairs: Iterable[Pair], names: Iterable[str] | None = None) -> Iterator[float]:
        """Yields the raw reward of one pair after the other; the pairs need not fit into memory.

        Reads at most 512 pairs ahead of what it has yielded. `names` are what errors call the pairs, by default
        "pairs[0]", "pairs[1]", ...

        Raises: as `score`, when it comes to the pair; what was computed before has been yielded by then.
        """
        self._require_head()
        for scores in self._intake.stream_pairs(pairs, names, wants_features=False):
            yield from scores.tolist()

    def feature_stream(self, pairs: Iterable[Pair], names: Iterable[str] | None = None) -> Iterator[Float32]:
        """Yields the features of a few hundred pairs after the other, each time [n, D]; as `score_stream`."""
        yield from self._intake.stream_pairs(pairs, names, wants_features=True)

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
        if it parses as a program of `language`, one of `codescaler.text.extract.LANGUAGES`. `top_k` keeps that many.
        `names` are what errors call the candidates, by default "candidate 0", "candidate 1", ...

        Raises:
            InvalidInput: an argument is not usable; as `score`. WeightsError: a score is not finite; as `score`.
        """
        return rank_candidates(self.score_stream, problem, candidates, extract, top_k, language, names)

    def _require_head(self) -> None:
        if self._decoder.head_weight is None:
            raise InvalidInput("this engine was loaded with head='none' and has no scores; ask for features")


def _list_schemes(config: ModelConfig, quantization: str | None) -> set[Scheme]:
    """The formats of a model's quantised linear layers, or of those that it is about to get."""
    wanted: dict[str, Scheme] = {"int8": QuantScheme(8, True), "fp8": Fp8Scheme()}
    return set(config.quantized_linears.values()) or {wanted[name] for name in (quantization,) if name}


def _explain_no_gpu(backend: str, schemes: set[Scheme]) -> str | None:
    """Why a GPU that is here cannot run the backend that was named, or these formats; None if it can."""
    if not torch.cuda.is_available():
        return None
    reason = None if backend == "auto" else explain_unavailable(backend, "cuda")
    return reason or next(filter(None, map(select_backend(backend, "cuda").supports, schemes)), None)


def _build_decoder(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: str,
    quantization: Quantization | None,
    backend: str,
    deterministic: bool,
) -> Decoder:
    config: ModelConfig = checkpoint.config
    get: GetTensor = checkpoint.get
    with make_current(device):
        chosen = select_backend(backend, device.type, deterministic=deterministic)
        torch_dtype = select_dtype(dtype, config.dtype, device, chosen)
        for reason in filter(None, map(chosen.supports, _list_schemes(config, quantization))):
            raise BackendUnavailable(reason)
        if quantization and not config.quantized_linears:
            from codescaler.quantize.int8 import quantize_tensors
            from codescaler.quantize.sensitivity import choose_quantized

            # What a layer does to scores is measured on the CPU, for activations that the device is fast in.
            measuring = chosen if device.type == "cpu" else select_backend("auto", "cpu")
            bits: ActivationBits = 8 if chosen.has_bf16_unit else 16
            choice = choose_quantized(checkpoint, measuring, activation_bits=bits, quantization=quantization)
            config = replace(config, quantized_linears=choice.linears)
            get = quantize_tensors(get, config.quantized_linears)
        return build_decoder(config, get, chosen, torch_dtype, device)
