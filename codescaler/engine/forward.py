"""`ForwardRunner`: requests to a plan, to tensors, to the decoder, and back to each request. Runs on the worker."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from codescaler.engine.cuda_graphs import CudaGraphs
from codescaler.engine.exits import DROPPED, Bools, Exits
from codescaler.engine.offload import Offload
from codescaler.engine.options import make_current
from codescaler.engine.prefix_memory import LayerMemory, Prefix, PrefixMemory
from codescaler.engine.scheduler import Float32, Request
from codescaler.errors import BackendUnavailable
from codescaler.model.decoder import Decoder, HiddenStates
from codescaler.model.output_layer import OutputLayer
from codescaler.ops import Tree
from codescaler.ops.plan import TreeBatch, plan
from codescaler.ops.tree import upload
from codescaler.text.token_ids import Int32

MAX_TREES_AT_EXIT = 8
_log = logging.getLogger(__name__)


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
        self.num_truncated = self.num_tokens = self.num_distinct_tokens = self.num_token_layers = 0
        self.text_seconds = self.forward_seconds = 0.0
        self._decoder = decoder
        self._max_batch_tokens = max_batch_tokens
        self._graphs = graphs
        self._memory = memory
        self._build_output_layer = build_output_layer
        self._output_layer: OutputLayer | None = None  # built by the first call that wants it
        self._offload: Offload | None = None
        self._has_told = False

    def __call__(self, requests: Sequence[Request]) -> list[Float32]:
        """Returns what each request wants, NaN for scores without a head."""
        if self._offload is not None:
            raise BackendUnavailable("the engine sleeps: its weights are not on the device; call wake() first")
        started = time.perf_counter()
        scored = [request for request in requests if request.wants in ("scores", "features")]
        likely = [request for request in requests if request.wants == "log_probs"]
        staged = [request for request in requests if request.wants == "stages"]
        with make_current(self._decoder.device):
            results = dict(zip(scored, self._compute_scores(scored), strict=True)) if scored else {}
            if likely:
                results |= zip(likely, self._compute_log_probs(likely), strict=True)
            for exits in dict.fromkeys(request.exits for request in staged):
                alike = [request for request in staged if request.exits is exits]
                results |= zip(alike, self._compute_stages(alike), strict=True)
        self.num_truncated += sum(request.num_truncated for request in requests)
        self.text_seconds += sum(request.text_seconds for request in requests)
        self.num_tokens += sum(request.num_tokens for request in requests)
        self.forward_seconds += time.perf_counter() - started
        return [results[request] for request in requests]

    def _compute_scores(self, requests: Sequence[Request]) -> list[Float32]:
        """Returns each request's scores or features."""
        sequences = [sequence for request in requests for sequence in request.sequences]
        clients = [request.client for request in requests for _ in request.sequences]
        batches, used = self._plan(sequences, clients)
        kept = {} if self._memory is None else self._memory.choose(clients, sequences)
        scores = np.full(len(sequences), np.nan, dtype=np.float32)
        # Features are a thousand times as large: they are kept and copied only if a request wants them.
        has_features = any(request.wants == "features" for request in requests)
        features = np.empty((len(sequences) if has_features else 0, self._decoder.config.hidden_size), dtype=np.float32)
        # A GPU is waited for once all batches are under way, so that it never waits for us.
        outputs = [self._forward(batch, has_features, used, kept) for batch in batches]
        for batch, (batch_features, batch_scores) in zip(batches, outputs, strict=True):
            if batch_features is not None:
                features[batch.sequences] = batch_features.cpu().numpy()
            if batch_scores is not None:
                scores[batch.sequences] = batch_scores.cpu().numpy()
        self._count(batches)
        if len(requests) == 1:
            return [features if has_features else scores]
        ends = np.cumsum([len(request.sequences) for request in requests]).tolist()
        return [
            (features if request.wants == "features" else scores)[end - len(request.sequences) : end].copy()
            for request, end in zip(requests, ends, strict=True)
        ]

    def _compute_log_probs(self, requests: Sequence[Request]) -> list[Float32]:
        """Returns the log-probability of each token behind a position that is read."""
        decoder, device = self._decoder, self._decoder.device
        if self._output_layer is None:
            assert self._build_output_layer is not None, "the model has no output layer"
            self._output_layer = self._build_output_layer()
        whole = [sequence for request in requests for sequence in request.sequences]
        sequences = [sequence[:-1] for sequence in whole]  # what follows the last token is asked by nobody
        first_read = [position for request in requests for position in request.first_read]
        outputs: list[Tensor] = []
        batches = plan(sequences, self._max_batch_tokens, first_read=first_read)
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
        log_probs: dict[int, Float32] = {}
        for batch, output in zip(batches, outputs, strict=True):
            of_sequences = np.split(output.cpu().numpy(), batch.row_counts.cumsum()[:-1])
            log_probs.update(zip(batch.sequences.tolist(), of_sequences, strict=True))
        self._count(batches)
        parts = iter([log_probs[index] for index in range(len(sequences))])
        return [request.combine([next(parts) for _ in request.sequences]) for request in requests]

    def _compute_stages(self, requests: Sequence[Request]) -> list[Float32]:
        """Returns each request's values at the exits, which all have, and at the end.

        At an exit all trees wait for one another, since a problem's candidates may stand in several.
        """
        decoder, exits = self._decoder, requests[0].exits
        assert exits is not None
        sequences = [sequence for request in requests for sequence in request.sequences]
        ends = np.cumsum([0, *(len(request.sequences) for request in requests)]).tolist()
        width = 1 if exits.heads else decoder.config.hidden_size
        values = np.full((len(sequences), len(exits.layers) * width + 1), DROPPED, dtype=np.float32)
        batches = plan(sequences, self._max_batch_tokens)
        self.num_distinct_tokens += sum(batch.num_tokens for batch in batches)
        # Hidden states of so many trees would fill the memory: a problem of this size is computed in full.
        rule = exits.rule if len(batches) <= MAX_TREES_AT_EXIT else None
        if rule is not exits.rule and not self._has_told:
            self._has_told = True
            _log.warning(
                "problems of more than %d forwards are scored in full, without exits; give a larger max_batch_tokens",
                MAX_TREES_AT_EXIT,
            )
        for together in [batches] if rule is not None else [[batch] for batch in batches]:
            forwards = [decoder.start(Tree.from_batch(batch, decoder.device)) for batch in together]
            for stage, num_layers in enumerate((*exits.layers, decoder.config.num_layers)):
                for states in forwards:
                    batch = states.context.tree.batch
                    self.num_token_layers += batch.num_tokens * (num_layers - states.num_layers)
                    decoder.advance(states, num_layers)
                    columns = slice(stage * width, (stage + 1) * width if stage < len(exits.layers) else None)
                    values[batch.sequences, columns] = self._read_stage(states, exits, stage)
                if rule is not None and stage < len(exits.layers):
                    parts = [values[start:end, stage] for start, end in pairwise(ends)]
                    is_kept = np.concatenate([rule.find_survivors(part, stage) for part in parts])
                    forwards = _cut(forwards, is_kept)
        return [values[start:end] for start, end in pairwise(ends)]

    def _read_stage(self, states: HiddenStates, exits: Exits, stage: int) -> Float32:
        """Returns scores at an exit and at the end, features at an exit without heads. None is `DROPPED`."""
        if stage == len(exits.layers):
            read = self._decoder.score(states)[1]
        else:
            weight, bias = exits.heads[stage] if exits.heads else (None, None)
            features, read = self._decoder.pool(states, weight, bias)
            read = features if read is None else read
        assert read is not None
        values: Float32 = read.view(len(read), -1).cpu().numpy()
        return np.where(values == DROPPED, np.float32(np.nan), values)

    def _count(self, batches: Sequence[TreeBatch]) -> None:
        num_tokens = sum(batch.num_tokens for batch in batches)
        self.num_distinct_tokens += num_tokens
        self.num_token_layers += num_tokens * self._decoder.config.num_layers

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

    def _plan(self, sequences: Sequence[Int32], clients: Sequence[str | None]) -> tuple[list[TreeBatch], list[Prefix]]:
        """Returns the trees of sequences, and the remembered prefixes that these name by number."""
        if self._memory is None:
            return plan(sequences, self._max_batch_tokens), []
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
            for index, row in zip(batch.sequences.tolist(), batch.rows.tolist(), strict=True)
            if index in kept
        ]
        if batch.remembered or filled:
            tree = Tree.from_batch(batch, decoder.device)
            features, scores = decoder.forward(tree, LayerMemory(batch, used, filled, decoder.device))
            assert self._memory is not None
            self._memory.keep([prefix for prefix, _ in filled])
        elif self._graphs is None:
            features, scores = decoder.forward(Tree.from_batch(batch, decoder.device))
        else:
            features, scores = self._graphs.forward(batch)
        return features if has_features else None, scores


def _cut(forwards: Sequence[HiddenStates], is_kept: Bools) -> list[HiddenStates]:
    """Cuts trees to the sequences that are kept, by their index in all; a tree without one is left out."""
    left = []
    for states in forwards:
        kept = is_kept[states.context.tree.batch.sequences]
        if not kept.all() and kept.any():
            states.cut(kept.tolist())
        if kept.any():
            left.append(states)
    return left
