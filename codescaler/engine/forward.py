"""`ForwardRunner`: requests to a plan, to tensors, to the decoder, and back to each request. Runs on the worker."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codescaler.engine.cuda_graphs import CudaGraphs
from codescaler.engine.offload import Offload
from codescaler.engine.options import make_current
from codescaler.engine.prefix_memory import LayerMemory, Prefix, PrefixMemory
from codescaler.engine.scheduler import Float32, Request
from codescaler.errors import BackendUnavailable
from codescaler.model.decoder import Decoder
from codescaler.model.output_layer import OutputLayer
from codescaler.ops import Tree
from codescaler.ops.plan import TreeBatch, plan
from codescaler.ops.tree import upload
from codescaler.text.token_ids import Int32


class ForwardRunner:
    """Computes requests and counts what that took. Only the worker thread calls it, so counters need no lock.

    Attributes: as the counters of `Engine`.
    """

    def __init__(
        self,
        decoder: Decoder,
        max_batch_tokens: int,
        graphs: CudaGraphs | None = None,
        memory: PrefixMemory | None = None,
        build_output_layer: Callable[[], OutputLayer] | None = None,
    ) -> None:
        self.num_truncated = self.num_tokens = self.num_distinct_tokens = 0
        self.text_seconds = self.forward_seconds = 0.0
        self._decoder = decoder
        self._max_batch_tokens = max_batch_tokens
        self._graphs = graphs
        self._memory = memory
        self._build_output_layer = build_output_layer
        self._output_layer: OutputLayer | None = None  # built by the first call that wants it
        self._offload: Offload | None = None

    def __call__(self, requests: Sequence[Request]) -> list[Float32]:
        """Returns what each request wants, NaN for scores without a head."""
        if self._offload is not None:
            raise BackendUnavailable("the engine sleeps: its weights are not on the device; call wake() first")
        started = time.perf_counter()
        scored = [request for request in requests if request.wants != "log_probs"]
        likely = [request for request in requests if request.wants == "log_probs"]
        with make_current(self._decoder.device):
            results = dict(zip(scored, self._compute_scores(scored), strict=True)) if scored else {}
            if likely:
                results |= zip(likely, self._compute_log_probs(likely), strict=True)
        self.num_truncated += sum(request.num_truncated for request in requests)
        self.text_seconds += sum(request.text_seconds for request in requests)
        self.num_tokens += sum(request.num_tokens for request in requests)
        self.forward_seconds += time.perf_counter() - started
        return [results[request] for request in requests]

    def _compute_scores(self, requests: Sequence[Request]) -> list[Float32]:
        """Returns each request's scores or features."""
        sequences = [sequence for request in requests for sequence in request.sequences]
        clients = [request.client for request in requests for _ in request.sequences]
        reads = _Reads(requests, sequences)
        batches, used = self._plan(sequences, clients, reads.first)
        kept = {} if self._memory is None else self._memory.choose(clients, sequences)
        scores = np.full(reads.num_positions, np.nan, dtype=np.float32)
        # Features are a thousand times as large: they are kept and copied only if a request wants them.
        has_features = any(request.wants == "features" for request in requests)
        features = np.empty((reads.num_positions * has_features, self._decoder.config.hidden_size), dtype=np.float32)
        # A GPU is waited for once all batches are under way, so that it never waits for us.
        outputs = [self._forward(batch, has_features, used, kept) for batch in batches]
        for batch, (batch_features, batch_scores) in zip(batches, outputs, strict=True):
            at = reads.locate(batch)
            if batch_features is not None:
                features[at] = batch_features.cpu().numpy()
            if batch_scores is not None:
                scores[at] = batch_scores.cpu().numpy()
        self.num_distinct_tokens += sum(batch.num_tokens for batch in batches)
        if len(requests) == 1:
            return [features if has_features else scores]
        parts = {"scores": reads.split(scores), "features": reads.split(features) if has_features else []}
        return [parts[request.wants][index].copy() for index, request in enumerate(requests)]

    def _compute_log_probs(self, requests: Sequence[Request]) -> list[Float32]:
        """Returns the log-probability of each token behind a position that is read."""
        decoder, device = self._decoder, self._decoder.device
        if self._output_layer is None:
            assert self._build_output_layer is not None, "the model has no output layer"
            self._output_layer = self._build_output_layer()
        whole = [sequence for request in requests for sequence in request.sequences]
        sequences = [sequence[:-1] for sequence in whole]  # what follows the last token is asked by nobody
        reads = _Reads(requests, sequences)
        log_probs = np.empty(reads.num_positions, dtype=np.float32)
        outputs: list[Tensor] = []
        batches = plan(sequences, self._max_batch_tokens, first_read=reads.first)
        for batch in batches:
            targets = [whole[index][-count:] for index, count in zip(batch.sequences, batch.row_counts, strict=True)]
            rows_P, targets_P, every_U = upload(
                [
                    batch.rows.astype(np.int64),
                    np.concatenate(targets).astype(np.int64),
                    np.arange(len(batch.read_tokens)),
                ],
                device,
            )
            x_UD, _ = decoder.forward(replace(Tree.from_batch(batch, device), rows=every_U))
            x_UD = x_UD.to(decoder.dtype)
            outputs.append(self._output_layer.compute_log_probs(decoder.backend, x_UD, rows_P, targets_P))
        for batch, output in zip(batches, outputs, strict=True):
            log_probs[reads.locate(batch)] = output.cpu().numpy()
        self.num_distinct_tokens += sum(batch.num_tokens for batch in batches)
        parts = iter(reads.split_sequences(log_probs))
        own = [[next(parts) for _ in request.sequences] for request in requests]
        return [
            np.concatenate(each) if request.combine is None else request.combine(each)
            for request, each in zip(requests, own, strict=True)
        ]

    def sleep(self) -> None:
        """Moves the weights of a GPU to host memory, and frees what the device holds besides; from then on calls fail.

        On a CPU nothing moves, since host memory is where they are.
        """
        if self._offload is not None:
            return
        if self._graphs is not None:
            self._graphs.clear()
        if self._memory is not None:
            self._memory.clear()
        self._output_layer = None
        is_on_gpu = self._decoder.device.type == "cuda"
        self._offload = Offload((self._decoder.embedding, self._decoder.layers) if is_on_gpu else ())
        if is_on_gpu:
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """Moves the weights back."""
        if self._offload is not None:
            self._offload.restore()
            self._offload = None

    def _plan(
        self, sequences: Sequence[Int32], clients: Sequence[str | None], first_read: Sequence[int] | None
    ) -> tuple[list[TreeBatch], list[Prefix]]:
        """Returns the trees of sequences, and the remembered prefixes that these name by number."""
        if self._memory is None or first_read is not None:  # a remembered token has no hidden state to read
            return plan(sequences, self._max_batch_tokens, first_read=first_read), []
        found = [self._memory.find(client, tokens) for client, tokens in zip(clients, sequences, strict=True)]
        used = list(dict.fromkeys(part for part in found if part is not None))
        numbers = [None if part is None else used.index(part) for part in found]
        prefixes = [prefix.tokens[:length] for prefix, length in used]
        return plan(sequences, self._max_batch_tokens, prefixes, numbers), [prefix for prefix, _ in used]

    def _forward(
        self, batch: TreeBatch, has_features: bool, used: Sequence[Prefix], kept: Mapping[int, Prefix]
    ) -> tuple[Tensor | None, Tensor | None]:
        decoder = self._decoder
        filled = [
            (kept[index], batch.list_path(row, len(kept[index].tokens)))
            for index, row in zip(batch.sequences.tolist(), batch.last_rows.tolist(), strict=True)
            if index in kept
        ]
        if batch.remembered or filled:
            tree = Tree.from_batch(batch, decoder.device)
            features, scores = decoder.forward(tree, LayerMemory(batch, used, filled, decoder.device))
            assert self._memory is not None
            self._memory.keep([prefix for prefix, _ in filled])
        elif self._graphs is None or len(batch.rows) > len(batch.sequences):
            features, scores = decoder.forward(Tree.from_batch(batch, decoder.device))
        else:
            features, scores = self._graphs.forward(batch)
        return features if has_features else None, scores


class _Reads:
    """Where what is read of each sequence stands in one array of all positions.

    `first` are the positions from which on sequences are read, None if of each the last alone is.
    """

    def __init__(self, requests: Sequence[Request], sequences: Sequence[Int32]) -> None:
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        self.first: list[int] | None = None
        counts = np.ones_like(lengths)  # of positions that are read
        if any(request.first_read is not None for request in requests):
            self.first = []
            for request in requests:
                last = (len(sequence) - 1 for sequence in request.sequences)
                self.first += last if request.first_read is None else request.first_read
            counts = lengths - np.array(self.first, dtype=np.int64)
        self._ends = counts.cumsum()
        self._starts = self._ends - counts
        bounds = np.cumsum([0, *(len(request.sequences) for request in requests)])
        self._bounds = np.append(0, self._ends)[bounds]

    @property
    def num_positions(self) -> int:
        return int(self._bounds[-1])

    def locate(self, batch: TreeBatch) -> npt.NDArray[np.int64]:
        """Returns the places of what is read of a batch, in the order of its rows."""
        counts = batch.row_counts.astype(np.int64)
        shifts = self._starts[batch.sequences] - (counts.cumsum() - counts)
        places: npt.NDArray[np.int64] = np.repeat(shifts, counts) + np.arange(counts.sum())
        return places

    def split_sequences(self, values: Float32) -> list[Float32]:
        """Returns the part of each sequence."""
        return np.split(values, self._ends[:-1])

    def split(self, values: Float32) -> list[Float32]:
        """Returns the part of each request."""
        return np.split(values, self._bounds[1:-1])
