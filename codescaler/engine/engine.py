"""`Engine`: a reward model on one device, from text or token ids to scores and rankings.

Encodes on the caller's thread and queues; `scheduler` and `forward` do the rest. Imports no transformers. Several
threads and event loops may call one engine, and a forked child may go on using it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch

from codescaler.checkpoint.download import resolve_folder
from codescaler.checkpoint.load import Checkpoint, open_checkpoint
from codescaler.checkpoint.tensor_files import TensorSource
from codescaler.engine import worker
from codescaler.engine.adaptive import AdaptiveRanker, open_ranker
from codescaler.engine.cuda_graphs import CudaGraphs
from codescaler.engine.exits import Exits, require_layers
from codescaler.engine.forward import ForwardRunner
from codescaler.engine.intake import Intake, require_list
from codescaler.engine.likelihood import TOKEN_SCORERS, choose_scorer
from codescaler.engine.options import make_current, require_choice, require_count, select_device, select_dtype
from codescaler.engine.prefix_memory import DEFAULT_BYTES, PrefixMemory
from codescaler.engine.ranking import compute_finite, rank_candidates
from codescaler.engine.scheduler import GPU_BURST_S, Float32, Scheduler
from codescaler.engine.trace import plan_trace
from codescaler.errors import BackendUnavailable, InvalidInput, UnsupportedModel
from codescaler.io.resumable import compute_digest
from codescaler.model.decoder import Decoder, GetTensor, build_decoder
from codescaler.model.output_layer import OutputLayer, build_output_layer
from codescaler.ops import explain_unavailable, select_backend
from codescaler.text.control_tokens import ControlTokenMode
from codescaler.text.encoder import Encoder, build_encoder
from codescaler.text.program import Message, Pair
from codescaler.text.settings import BosRule, TextSettings
from codescaler.text.token_ids import Pooling, TokenLists, Truncation
from codescaler.types import (
    ActivationBits,
    Fp8Scheme,
    LineScore,
    ModelConfig,
    Quantization,
    QuantScheme,
    RankedCandidate,
    Scheme,
    ScorerName,
)

DEFAULT_BATCH_TOKENS = 8192  # distinct tokens; large enough to fill a machine, activations stay near 150 MB


class Engine:
    """Scores token lists with one reward model. Build one with `Engine.from_pretrained`.

    Attributes:
        config: what the model computes. folder: that it was loaded from.
        dtype: dtype of weights and activations, "float32" or "bfloat16".
        quantization: "int8" or "fp8" if there are linear layers in 8 bits, else None; `config.quantized_linears` has
            their names.
        device: where it runs. backend: name of the backend that runs it.
        has_same_bits: whether scores are meant to have the same bits in any batch; docs/design/bit-identity.md names
            the exceptions.
        max_batch_tokens: distinct tokens of one forward, None for the default.
        pooling, truncation: as in `from_pretrained`. max_length: tokens of the longest sequence accepted.
        text: the system prompt, and what control tokens in messages are.
        scorer: what scores are, as in `from_pretrained`.
        encoder: from text to token ids. scheduler: the queue of all callers, with settings for servers.
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
        cuda_graphs: bool = False,
        prefix_memory_bytes: int = 0,
        output_layer: TensorSource | None = None,
        scorer: ScorerName = "reward",
        local_files_only: bool = False,
        has_same_bits: bool = False,
    ) -> None:
        self.config: ModelConfig = decoder.config
        self.folder = folder
        self.dtype = str(decoder.dtype).removeprefix("torch.")
        self.quantization = decoder.config.quantization
        self.device = str(decoder.device)
        self.backend = decoder.backend.name
        self.has_same_bits = has_same_bits
        self.max_batch_tokens = encoder.max_batch_tokens
        self.pooling = pooling
        self.truncation = encoder.truncation
        self.text = encoder.text
        self.max_length = max_length
        self.encoder = encoder
        self._decoder = decoder
        budget = self.max_batch_tokens or DEFAULT_BATCH_TOKENS
        self.scorer = scorer
        self._output_layer = output_layer
        self._graphs = CudaGraphs(decoder) if cuda_graphs else None
        key_bytes = (
            2 * self.config.num_layers * self.config.num_kv_heads * self.config.head_dim * decoder.dtype.itemsize
        )
        memory = PrefixMemory(prefix_memory_bytes, key_bytes, lambda: encoder.answer_start)
        self._runner = ForwardRunner(
            decoder, budget, self._graphs, memory if prefix_memory_bytes else None, self._build_output_layer
        )
        self.scheduler = Scheduler(self._runner, budget=budget, num_threads=num_threads)
        if decoder.device.type == "cuda":
            self.scheduler.burst_s = GPU_BURST_S
        self._intake = Intake(encoder, self.scheduler, choose_scorer(scorer))
        self._rankers: dict[str, AdaptiveRanker] = {}
        self._local_files_only = local_files_only  # of a small model too

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
        system: str | None = None,
        control_tokens: ControlTokenMode | None = None,
        chat_template: str | None = None,
        bos: BosRule = "tokenizer",
        head: Literal["required", "none"] = "required",
        scorer: ScorerName = "reward",
        classifier_from_token: Sequence[str | int] | None = None,
        base_model: str | Path | None = None,
        deterministic: bool = False,
        cuda_graphs: bool = False,
        prefix_memory_bytes: int | None = None,
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
                them now, but for linear layers that would change rankings (see `codescaler.quantize.sensitivity`), and
                leaves a folder of this format as it is. It measures for seconds to minutes; `codescaler quantize` does
                so once. fp8 is for GPUs from sm_89 on.
            backend: "auto", "cpu" (C++), "triton" (GPUs), or "reference" (plain PyTorch, any device).
            num_threads: CPU threads a call may use; None means torch's setting.
            max_batch_tokens: distinct tokens (a shared prefix counts once) in one forward. None means 8192, and a
                longer sequence runs alone; a number is a hard limit, and a longer sequence is refused.
            pooling: "hf" scores the token that transformers scores: in sequence classification the right-most
                one that is not the pad token (the first if all are), else the last. "last": always the last.
            truncation: what to do above `max_length`: "error", or cut away the "left" or the "middle".
            max_length: tokens a sequence may have; None means the model's number of positions.
            system: the system prompt of what has none of its own. None takes that of the folder, the text in
                system_prompt.txt, and "" none.
            control_tokens: what a control token such as "<|im_end|>" is where it stands in a message: "text", or
                "tokens" that end turns. None is "text" in programs that are compared (`rerank`, groups, pairs), and
                "tokens" in what is scored as given.
            chat_template: the text of a chat template in place of the folder's own; None takes the folder's.
            bos: "tokenizer" begins each text with exactly one BOS if the tokenizer puts one there; "template" leaves
                the text as rendered, as transformers' `apply_chat_template` does.
            head: "required" refuses a model without a reward head; "none" loads any supported causal LM, and
                only features and log-likelihoods can be asked for.
            scorer: what scores are. "reward" is the reward head's. A causal LM without one scores by the log-likelihood
                of the program after its problem: "likelihood" (the sum over its tokens), "likelihood_mean",
                "likelihood_min"; of the problem after its program: "reviewer"; or by both sums, "coder_reviewer".
            classifier_from_token: the token, or two, that a causal LM answers with. The score is the logit of the
                token, or of the second minus the first: ["no", "yes"]. An id stands for a token too.
            base_model: folder or hub id of a LoRA folder's base; None means what the folder names.
            deterministic: results are bit-identical in any batch. On a CPU they are as it is. On a GPU True takes our
                own matrix products, since those of torch may give a row other bits in a batch of another size.
            cuda_graphs: on a GPU, replay forwards of up to 4096 distinct tokens as CUDA graphs. The first two forwards
                of each size are slower, and the graphs take memory.
            prefix_memory_bytes: memory for keys and values of prefixes that later calls may share, such as a problem
                whose programs come one by one. 0 keeps none. None means 256 MB on a CPU, and none on a GPU,
                where it needs `deterministic`.
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
        text = TextSettings(system, control_tokens, chat_template, bos)
        require_count("num_threads", num_threads)
        require_count("max_batch_tokens", max_batch_tokens)
        require_count("max_length", max_length)
        if choose_scorer(scorer) is not None:
            if classifier_from_token is not None:
                raise InvalidInput(
                    f"classifier_from_token names a head, and scorer={scorer!r} has none; give one of them"
                )
            head = "none"
        folder = resolve_folder(model, revision=revision, local_files_only=local_files_only)
        checkpoint = open_checkpoint(
            folder,
            head=head,
            base_model=base_model,
            local_files_only=local_files_only,
            classifier_from_token=classifier_from_token,
        )
        if scorer != "reward" and checkpoint.output_layer is None:
            raise UnsupportedModel(_explain_no_output_layer(folder))
        target = select_device(device, _explain_no_gpu(backend, _list_schemes(checkpoint.config, quantization)))
        if cuda_graphs and target.type != "cuda":
            raise BackendUnavailable(f"cuda_graphs=True needs a GPU, and device {str(target)!r} is none")
        has_same_bits = deterministic or target.type == "cpu"
        memory_bytes = _choose_prefix_memory(prefix_memory_bytes, target, has_same_bits)
        threads = num_threads or torch.get_num_threads()
        limit = max_length or checkpoint.config.max_positions
        encoder = build_encoder(
            checkpoint,
            pooling=pooling,
            truncation=truncation,
            max_length=limit,
            max_batch_tokens=max_batch_tokens,
            text=text,
        )
        build = partial(_build_decoder, checkpoint, target, dtype, quantization, backend, deterministic, encoder.text)
        return cls(
            worker.submit(threads, build).result(),
            encoder,
            folder=checkpoint.folder,
            num_threads=threads,
            pooling=pooling,
            max_length=limit,
            cuda_graphs=cuda_graphs,
            prefix_memory_bytes=memory_bytes,
            output_layer=checkpoint.output_layer,
            scorer=scorer,
            local_files_only=local_files_only,
            has_same_bits=has_same_bits,
        )

    def __repr__(self) -> str:
        config = self.config
        bits = [scheme.bits for scheme in config.quantized_linears.values()]
        quantised = (
            f", {len(bits)} of {7 * config.num_layers} linear layers {self.quantization} "
            f"({bits.count(8)} with activations of 8 bits)"
        )
        packed = f", stored in {' and '.join(map(str, sorted(set(config.packed_bits.values()))))} bits"
        return (
            f"Engine({config.architecture or config.family}, {config.num_layers} layers, hidden {config.hidden_size}, "
            f"{self.dtype}{quantised if bits else ''}{packed if config.packed_bits else ''}, {self.device}, "
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
    def num_token_layers(self) -> int:
        """Layers that distinct tokens went through so far: what exits save is not among them."""
        return self._runner.num_token_layers

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
        """Names the reward head, and so the model that was trained with it: 16 hexadecimal digits. Without a head
        it names the scorer and the language model.

        The same in every dtype and on every device, since a head is never rounded.
        """
        self._require_scores()
        if self.scorer != "reward":
            return compute_digest([self.scorer.encode(), self._decoder.norm.cpu().numpy().tobytes()])
        tensors = [tensor.cpu().numpy().tobytes() for tensor in self._decoder.head_tensors]
        return compute_digest([*tensors, b""] if len(tensors) == 1 else tensors)  # b"": of a head without a bias

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
        return self._intake.put_tokens(ids, wants="features").result()

    def score(self, pairs: Sequence[Pair], *, system: str | None = None) -> Float32:
        """Returns the raw reward of each (problem, response), or of each list of messages. Shapes: B pairs -> [B].

        The text is rendered by the checkpoint's own chat template. CodeScaler scores the extracted program alone as the
        response: no fences, no prose. An empty response is scored like any other. Text is taken as given: a newline at
        its end counts, which `rerank` takes away. Calls at the same time, from several threads, share a forward and
        the prefixes that their pairs have in common.

        `system` is the system prompt of pairs that have none of their own. None is the engine's, and "" none.

        Raises:
            InvalidInput: a pair is malformed, or too long, or the model was loaded with head="none".
            WeightsError: the checkpoint has no tokenizer or template, or they fail.
            CapacityExceeded: as `score_tokens`.
        """
        return np.fromiter(self.score_stream(require_list(pairs), system=system), dtype=np.float32)

    def submit(
        self,
        pairs: Sequence[Pair],
        *,
        system: str | None = None,
        client: str | None = None,
        deadline: float | None = None,
    ) -> Future[Float32]:
        """Encodes pairs now and returns a future of their scores, which may be cancelled while it waits.

        `system` is as in `score`. `deadline` is a time by `time.monotonic`: if the pairs still wait then, the future
        raises `DeadlineExceeded`.
        `client` is for a `scheduler.select` of your own. The future's callbacks run on the thread that computes: they
        may submit, but must not wait for a score.

        Raises: as `score`.
        """
        self._require_scores()
        return self._intake.put_pairs(pairs, system, client=client, deadline=deadline)

    def submit_tokens(
        self, ids: TokenLists, *, client: str | None = None, deadline: float | None = None
    ) -> Future[Float32]:
        """Queues token lists and returns a future of their scores; otherwise as `submit`.

        Raises: as `score_tokens`.
        """
        self._require_head()
        return self._intake.put_tokens(ids, client=client, deadline=deadline)

    async def score_async(
        self,
        pairs: Sequence[Pair],
        *,
        system: str | None = None,
        client: str | None = None,
        deadline: float | None = None,
    ) -> Float32:
        """Returns what `score` does, and leaves the event loop free: pairs are encoded on a thread of its executor.

        Cancelling the task takes the pairs out of the queue if they still wait.

        Raises: as `submit`.
        """
        self._require_scores()
        return await self._intake.compute_pairs(pairs, system, client=client, deadline=deadline)

    def features(self, pairs: Sequence[Pair], *, system: str | None = None) -> Float32:
        """Returns the final-norm hidden state at each pair's pooled token. Shapes: B pairs -> [B, D], float32.

        Raises: as `score`, but for the head, which is not needed.
        """
        windows = self.feature_stream(require_list(pairs), system=system)
        return np.concatenate([np.empty((0, self.config.hidden_size), np.float32), *windows])

    def log_likelihood(
        self, pairs: Sequence[Pair], *, reduce: Literal["sum", "mean", "min"] = "sum", system: str | None = None
    ) -> Float32:
        """Returns how likely a causal LM finds each response after its problem. Shapes: B pairs -> [B], float32.

        The sum, mean or least of log p(token | what precedes it), over the tokens of the last message; tokens that the
        template writes are not counted. A pair has the same bits in any batch on a CPU, and on a GPU with
        `deterministic`.

        Raises:
            UnsupportedModel: the model is no causal LM. InvalidInput: as `score`; a response has no token, or a pair is
            longer than `max_length`: what is truncated has no likelihood. WeightsError: as `score`; or the template
            rewrites the response.
        """
        names = {"sum": "likelihood", "mean": "likelihood_mean", "min": "likelihood_min"}
        require_choice("reduce", reduce, tuple(names))
        if self._output_layer is None:
            raise UnsupportedModel(_explain_no_output_layer(self.folder))
        scorer = choose_scorer(names[reduce])
        windows = self._intake.stream_pairs(require_list(pairs), None, system, wants="scores", scorer=scorer)
        return np.concatenate([np.empty(0, np.float32), *windows])

    def log_probs(
        self, pairs: Sequence[Pair], *, of: Literal["program", "problem"] = "program", system: str | None = None
    ) -> list[Float32]:
        """Returns log p(token | what precedes it) of each token of each program, or of each problem after its program.

        Any reduction of `log_likelihood` and of scorers is one of these, so that several cost one pass. Shapes: a list
        of [n] for each pair, float32.

        Raises: as `log_likelihood`.
        """
        require_choice("of", of, tuple(TOKEN_SCORERS))
        if self._output_layer is None:
            raise UnsupportedModel(_explain_no_output_layer(self.folder))
        windows = self._intake.stream_pairs(require_list(pairs), None, system, wants="scores", scorer=TOKEN_SCORERS[of])
        return [log_probs for window in windows for log_probs in window]

    def submit_stages(
        self, pairs: Sequence[Pair], exits: Exits, names: Sequence[str] | None = None, *, system: str | None = None
    ) -> Future[Float32]:
        """Encodes the candidates of one problem, and returns a future of their values at exits, then their scores.

        At an exit stands a score, or a feature of D numbers where the exits have no heads. All have the same bits in
        any batch, and the scores are those of `score`. Shapes: N pairs -> [N, exits + 1], or [N, exits * D + 1].

        Raises: as `score`.
        """
        self._require_head()
        require_layers(exits.layers, self.config.num_layers)
        names = names or [f"pairs[{index}]" for index in range(len(require_list(pairs)))]
        return self._intake.put_stages(pairs, names, system, exits)

    def score_stream(
        self, pairs: Iterable[Pair], names: Iterable[str] | None = None, *, system: str | None = None
    ) -> Iterator[float]:
        """Yields the raw reward of one pair after the other; the pairs need not fit into memory.

        Reads at most 512 pairs ahead of what it has yielded. `names` are what errors call the pairs, one for each, by
        default "pairs[0]", "pairs[1]", ... `system` is as in `score`.

        Raises: as `score`, when it comes to the pair; what was computed before has been yielded by then.
        """
        self._require_scores()
        for scores in self._intake.stream_pairs(pairs, names, system, wants="scores"):
            yield from scores.tolist()

    def feature_stream(
        self, pairs: Iterable[Pair], names: Iterable[str] | None = None, *, system: str | None = None
    ) -> Iterator[Float32]:
        """Yields the features of a few hundred pairs after the other, each time [n, D]; as `score_stream`."""
        yield from self._intake.stream_pairs(pairs, names, system, wants="features")

    def rerank(
        self,
        problem: str | Sequence[Message],
        candidates: Sequence[str],
        extract: bool | str = False,
        top_k: int | None = None,
        *,
        language: str = "python",
        names: Sequence[str] | None = None,
        system: str | None = None,
        asked_first: bool = False,
        adaptive: str | Path | None = None,
    ) -> list[RankedCandidate]:
        """Returns the candidates best first: valid ones before invalid, then by score, ties by index.

        The problem is a text, or the messages before the program.

        With `extract`, candidates are completions: the training extractor takes the program out of each, or the one
        of `text.extraction.EXTRACTORS` that it names. A completion without a program has no score. Without, each is a
        program, and is valid if it parses as one of `language`, one of `codescaler.text.extract.LANGUAGES`.
        `text.program.normalize_program` comes before the score: white space around a program, a byte-order mark and
        other line ends move nothing. `top_k`
        keeps that many.
        `names` are what errors call the candidates, by default "candidate 0", "candidate 1", ... `system` is as in
        `score`. Control tokens in a program are text, unless the engine was loaded with control_tokens="tokens".
        With `asked_first`, a Python program that does not define what the problem's shown tests or signature call comes
        after those that do, whatever its score, and its `missing` has the names (`codescaler.text.asked`).
        `adaptive` drops candidates that are far behind before they have a score, by a certificate in the model's
        folder: "exits" after some layers, or a small model, "nano" or a folder, before the first. The candidates that
        are left have the scores of a full run, to the bit. The others follow, with `dropped_at`. How often another
        candidate may be first, or a dropped one better, the certificate says (`open_ranker(adaptive).certificate`).
        On a GPU, `adaptive` needs an engine with `deterministic=True`.

        Raises:
            InvalidInput: an argument is not usable; as `score`. WeightsError: a score is not finite; as `score`. With
            `adaptive`, also as `open_ranker`.
        """
        arguments = (problem, candidates, extract, top_k, language, names, system, asked_first)
        rank_in_full = partial(rank_candidates, self.score_stream, *arguments)
        return rank_in_full() if adaptive is None else self.open_ranker(adaptive).rank(rank_in_full, *arguments)

    def open_ranker(self, adaptive: str | Path) -> AdaptiveRanker:
        """Returns what ranks with `adaptive`, as in `rerank`: it holds the certificate, and says whether problems have
        drifted.

        Raises: InvalidInput if the folder has no certificate. WeightsError if it is of another model, SettingsMismatch
        if it is of other settings. BackendUnavailable if scores have other bits in another batch.
        """
        name = str(adaptive)
        if name not in self._rankers:
            load = partial(
                Engine.from_pretrained, device=self.device, num_threads=self.num_threads, backend=self.backend,
                local_files_only=self._local_files_only, truncation=self.truncation, deterministic=self.has_same_bits,
            )  # fmt: skip
            self._rankers.setdefault(name, open_ranker(self, name, load))  # two threads may load, and share the first
        return self._rankers[name]

    @overload
    def trace(
        self, problem: str | Sequence[Message], programs: str, *, system: str | None = None
    ) -> list[LineScore]: ...

    @overload
    def trace(
        self,
        problem: str | Sequence[Message],
        programs: list[str] | tuple[str, ...],
        *,
        names: Sequence[str] | None = None,
        system: str | None = None,
    ) -> list[list[LineScore]]: ...

    def trace(
        self,
        problem: str | Sequence[Message],
        programs: str | list[str] | tuple[str, ...],
        *,
        names: Sequence[str] | None = None,
        system: str | None = None,
    ) -> list[LineScore] | list[list[LineScore]]:
        """Returns the score after each line of a program, or of each of several programs of one problem.

        A line's value is the score of the program that ends there, so that the last is the score that `rerank` gives,
        to the bit. Programs are read as in `rerank`. All beginnings are one tree: tokens are computed once.

        Raises: as `rerank`; InvalidInput if scores are not those of a reward head, since an empty program has no
            likelihood.
        """
        if self.scorer != "reward":
            raise InvalidInput(f"scorer {self.scorer!r} has no score of a line; see log_probs for those of tokens")
        if isinstance(programs, str):
            return self.trace(problem, [programs], names=["program"], system=system)[0]
        plan = plan_trace(problem, programs, names, system)
        return plan.read_scores(compute_finite(self.score_stream, plan.pairs, plan.names))

    def sleep(self) -> None:
        """Gives the memory of the GPU back until `wake`: weights go to host memory. For a trainer that shares the card.

        A forward that has begun is finished first. Calls that still wait fail, and so do new calls. On a CPU no
        memory is given back. The small model of a cascade sleeps too.
        """
        self._run_on_worker(self._runner.sleep)
        for small in self._list_small():
            small.sleep()

    def wake(self) -> None:
        """Takes the memory of the GPU again, and puts the weights back: scores have the same bits as before.

        Raises: torch.OutOfMemoryError if others hold the memory; the engine sleeps on then.
        """
        self._run_on_worker(self._runner.wake)
        try:
            for small in self._list_small():
                small.wake()
        except BaseException:
            self.sleep()
            raise

    def _list_small(self) -> list["Engine"]:
        return [ranker.small for ranker in [*self._rankers.values()] if ranker.small is not None]

    def _run_on_worker(self, call: Callable[[], None]) -> None:
        def run() -> None:
            with make_current(self._decoder.device):
                call()

        worker.submit(self.num_threads, run).result()

    def _require_head(self) -> None:
        if not self._decoder.head_tensors:
            raise InvalidInput(
                f"this engine was loaded with head='none' or scorer={self.scorer!r} and has no reward head; ask for "
                "features or log_likelihood"
            )

    def _require_scores(self) -> None:
        if self.scorer == "reward":
            self._require_head()

    def _build_output_layer(self) -> OutputLayer:
        decoder = self._decoder
        assert self._output_layer is not None
        softcap = self.config.logit_softcap
        return build_output_layer(self._output_layer.read(), softcap, decoder.backend, decoder.dtype, decoder.device)


def _explain_no_output_layer(folder: Path) -> str:
    return (
        f"{folder} is no causal language model with an output layer, so that no token has a likelihood; give the "
        "language model itself, such as the base model that a reward model was trained from"
    )


def _choose_prefix_memory(num_bytes: int | None, device: torch.device, has_same_bits: bool) -> int:
    if num_bytes is None:
        return DEFAULT_BYTES if device.type == "cpu" else 0
    if isinstance(num_bytes, bool) or not isinstance(num_bytes, int) or num_bytes < 0:
        raise InvalidInput(f"prefix_memory_bytes={num_bytes!r}; give a whole number of bytes, 0 for none, or None")
    if num_bytes and not has_same_bits:
        raise BackendUnavailable(
            f"prefix_memory_bytes={num_bytes} needs sequences that have the same bits in any batch; on a GPU give "
            "deterministic=True too"
        )
    return num_bytes


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
    text: TextSettings,
) -> Decoder:
    config: ModelConfig = checkpoint.config
    get: GetTensor = checkpoint.get
    with make_current(device):
        chosen = select_backend(backend, device.type, deterministic=deterministic)
        torch_dtype = select_dtype(dtype, config.dtype, device, chosen)
        for reason in filter(None, map(chosen.supports, _list_schemes(config, quantization))):
            raise BackendUnavailable(reason)
        if quantization and config.quantized_linears and quantization != config.quantization:
            raise InvalidInput(
                f"{checkpoint.folder} is {config.quantization}, and quantization={quantization!r} asks for another "
                "format; give the folder as it was before, or leave quantization out"
            )
        if quantization and not config.quantized_linears:
            from codescaler.quantize.int8 import quantize_tensors
            from codescaler.quantize.sensitivity import choose_quantized

            # What a layer does to scores is measured on the CPU, for activations that the device is fast in.
            measuring = chosen if device.type == "cpu" else select_backend("auto", "cpu")
            bits: ActivationBits = 8 if chosen.has_bf16_unit else 16
            choice = choose_quantized(checkpoint, measuring, activation_bits=bits, quantization=quantization, text=text)
            config = replace(config, quantized_linears=choice.linears)
            get = quantize_tensors(get, config.quantized_linears)
        return build_decoder(config, get, chosen, torch_dtype, device)
