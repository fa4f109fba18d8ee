"""Forwards of small trees as CUDA graphs: one launch replays what the host would launch in some hundred.

A graph fits trees of one padded size (`ops.plan.TreeSizes`). A tree is padded whether its graph exists or not, so
that a sequence gets the same bits the first time and every time. Source: CUDA programming guide, chapter CUDA graphs.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from codescaler.model.decoder import Decoder
from codescaler.ops import Tree
from codescaler.ops.plan import TreeBatch, TreeSizes

MAX_TOKENS = 4096  # of a tree that is replayed. The kernels of a larger one hide their launches
MAX_GRAPHS = 128  # kept of a model, each for one size; the one that was not used for the longest time goes first

Outputs: TypeAlias = tuple[Tensor, Tensor | None]
Forward: TypeAlias = Callable[[], Outputs]
Capture: TypeAlias = Callable[[Forward], tuple[Callable[[], None], Outputs]]


class _Captured(NamedTuple):
    """A forward over the memory of one tree, and where its results will be."""

    tree: Tree
    replay: Callable[[], None]
    outputs: Outputs


class CudaGraphs:
    """The graphs of one decoder. A size is captured when it comes for the second time.

    `make_capture` returns what runs a forward, captures it, and returns how to replay it and its outputs.
    """

    def __init__(self, decoder: Decoder, make_capture: Callable[[], Capture] | None = None) -> None:
        self._decoder = decoder
        self._make_capture = make_capture or CudaCapture
        self._capture = self._make_capture()
        self._seen: set[TreeSizes] = set()
        self._captured: OrderedDict[TreeSizes, _Captured] = OrderedDict()

    def __len__(self) -> int:
        """The number of graphs."""
        return len(self._captured)

    def clear(self) -> None:
        """Frees all graphs and their memory."""
        self._captured.clear()
        self._capture = self._make_capture()  # a memory whose last graph is gone takes no other

    def forward(self, batch: TreeBatch) -> Outputs:
        """Returns what `Decoder.forward` does of the tree, padded unless it is too large to be replayed."""
        if batch.num_tokens > MAX_TOKENS:
            return self._decoder.forward(Tree.from_batch(batch, self._decoder.device))
        sizes = batch.round_up_sizes()
        padded = batch.pad(sizes)
        if sizes not in self._seen:
            self._seen.add(sizes)
            outputs = self._decoder.forward(Tree.from_batch(padded, self._decoder.device))
        else:
            outputs = self._replay(sizes, padded)
        features, scores = (None if output is None else output[: len(batch.rows)].clone() for output in outputs)
        assert features is not None
        return features, scores

    def _replay(self, sizes: TreeSizes, padded: TreeBatch) -> Outputs:
        captured = self._captured.get(sizes)
        if captured is None:
            tree = Tree.from_batch(padded, self._decoder.device)
            captured = _Captured(tree, *self._capture(lambda: self._decoder.forward(tree)))
        else:
            captured.tree.overwrite(padded)
        self._captured[sizes] = captured
        self._captured.move_to_end(sizes)
        if len(self._captured) > MAX_GRAPHS:
            self._captured.popitem(last=False)
        captured.replay()
        return captured.outputs


class CudaCapture:
    """Captures forwards on the current device. They share one memory, since one is replayed after the other."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, forward: Forward) -> tuple[Callable[[], None], Outputs]:
        """Returns the replay of `forward` and its outputs, which every replay writes."""
        self._stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            forward()  # compiles kernels, uploads tiles and lets cuBLAS choose: none of it can be captured
            # A training step in another thread may allocate meanwhile. `torch.cuda.graph` would empty its cache too.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = forward()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return graph.replay, outputs
