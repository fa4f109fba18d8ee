"""What codescaler is measured against: transformers as its users run it, and stock PyTorch operations."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from codescaler.ops import AttentionSpec, Tree, reference

Float32 = npt.NDArray[np.float32]


class TransformersScorer:
    """A sequence classifier of transformers with SDPA attention, on torch's threads.

    Scores in batches padded on the right to their longest sequence. `batch_size` None is one batch of
    everything; a number sorts by length first, so that little is padded, and takes that many at a time.
    """

    def __init__(self, model: Any, batch_size: int | None = None) -> None:
        self._model = model
        self._batch_size = batch_size

    def score_tokens(self, ids: list[list[int]]) -> Float32:
        """Returns each token list's raw score, in the order given."""
        scores = np.empty(len(ids), dtype=np.float32)
        for batch in self._batches(ids):
            scores[batch] = self._score_batch([ids[index] for index in batch])
        return scores

    def num_computed_tokens(self, ids: list[list[int]]) -> int:
        """Returns the tokens that the forwards run over, padding included."""
        return sum(len(batch) * max(len(ids[i]) for i in batch) for batch in self._batches(ids))

    def _batches(self, ids: list[list[int]]) -> list[list[int]]:
        if self._batch_size is None:
            return [list(range(len(ids)))]
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        return [order[at : at + self._batch_size] for at in range(0, len(order), self._batch_size)]

    def _score_batch(self, ids: list[list[int]]) -> Float32:
        lengths = torch.tensor([len(sequence) for sequence in ids])
        width = int(lengths.max())
        padding = self._model.config.pad_token_id
        input_ids = torch.tensor([sequence + [padding] * (width - len(sequence)) for sequence in ids])
        mask = (torch.arange(width) < lengths[:, None]).long()
        with torch.inference_mode():
            batch = {"input_ids": input_ids, "attention_mask": mask}
            batch = {name: tensor.to(self._model.device) for name, tensor in batch.items()}
            logits = self._model(**batch, use_cache=False).logits
        scores: Float32 = logits[:, 0].float().cpu().numpy()
        return scores


class PaddingFreeScorer:
    """A sequence classifier of transformers with flash attention, all sequences in one row without padding."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def score_tokens(self, ids: list[list[int]]) -> Float32:
        """Returns each token list's raw score. Where positions start again, flash attention starts a sequence."""
        device = self._model.device
        row = torch.tensor([[token for sequence in ids for token in sequence]], device=device)
        positions = torch.tensor([[at for sequence in ids for at in range(len(sequence))]], device=device)
        last = torch.tensor([len(sequence) for sequence in ids], device=device).cumsum(0) - 1
        with torch.inference_mode():
            hidden = self._model.model(input_ids=row, position_ids=positions, use_cache=False).last_hidden_state
            logits = self._model.score(hidden[0, last])
        scores: Float32 = logits[:, 0].float().cpu().numpy()
        return scores


def load_transformers(
    folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu", attention: str = "sdpa"
) -> Any:
    """Loads the checkpoint in `folder` with transformers."""
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention
    )
    return model.eval().to(device)


def _attend_per_sequence(qkv: Tensor, spec: AttentionSpec, tree: Tree) -> Tensor:
    """One causal `scaled_dot_product_attention` a sequence: what sequences share is computed for each."""
    heads = spec.heads
    out = qkv.new_empty(len(qkv), heads.q_width)
    for node, _, _, _ in tree.last_queries.tolist():
        blocks = tree.node_blocks[tree.node_block_offsets[node] : tree.node_block_offsets[node + 1]].long()
        path = tree.block_tokens[blocks].flatten().long()
        path = path[path >= 0]
        q, k, v = (
            part.unflatten(1, (-1, heads.head_dim)).transpose(0, 1).unsqueeze(0)
            for part in qkv[path].split([heads.q_width, heads.kv_width, heads.kv_width], dim=1)
        )
        k, v = (part.repeat_interleave(heads.group, dim=1) for part in (k, v))
        o = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=spec.scale)
        out[path] = o[0].transpose(0, 1).flatten(1)
    return out


class StockTorch(reference.ReferenceBackend):
    """What one writes without kernels of one's own.

    The operations left as they are in the reference have no one call in PyTorch, and the reference is the plain way to
    write them.
    """

    name = "torch"
    description = f"stock PyTorch {torch.__version__}"

    @staticmethod
    def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
        z = x.to(weight.dtype) if residual is None else residual.add_(x)
        return functional.rms_norm(z, weight.shape, weight, eps).to(x.dtype)

    @staticmethod
    def glu(gate_up: Tensor, activation: str) -> Tensor:
        assert activation == "silu", "the named workloads' models have no other"
        gate, up = gate_up.chunk(2, dim=1)
        return functional.silu(gate) * up

    @staticmethod
    def tree_attention(qkv: Tensor, spec: AttentionSpec, tree: Tree, queries: Tensor) -> Tensor:
        assert spec == AttentionSpec(spec.heads, spec.scale), "stock SDPA has scale and causality only"
        assert queries is tree.all_queries, "whole sequences only"
        return _attend_per_sequence(qkv, spec, tree)


STOCK_TORCH = StockTorch()
