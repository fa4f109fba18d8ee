"""What codescaler is measured against: transformers as its users run it, and stock PyTorch operations."""

import inspect
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from codescaler.ops import AttentionSpec, Tree, reference
from codescaler.testing import measure_seconds

Float32 = npt.NDArray[np.float32]
BFLOAT16_SCORE_LIMIT = 0.1  # of the mean size of a dense model's scores: far above rounding, below another model's


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
        for batch in self._plan_batches(ids):
            scores[batch] = self._score_batch([ids[index] for index in batch])
        return scores

    def count_computed_tokens(self, ids: list[list[int]]) -> int:
        """Returns the tokens that the forwards run over, padding included."""
        return sum(len(batch) * max(len(ids[i]) for i in batch) for batch in self._plan_batches(ids))

    def _plan_batches(self, ids: list[list[int]]) -> list[list[int]]:
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


class PackedScorer:
    """A sequence classifier of transformers with an attention of variable length: all sequences in one row, no padding.

    The attention is "flash_attention_2" or VARLEN.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def score_tokens(self, ids: list[list[int]]) -> Float32:
        """Returns each token list's raw score, in the order given."""
        with torch.inference_mode():
            scores: Float32 = score_packed(self._model, ids).float().cpu().numpy()
        return scores


def score_packed(model: Any, ids: list[list[int]]) -> Tensor:
    """Returns the raw scores of token lists that lie in one row, each of which attends to itself. Shapes: -> [B]."""
    device = model.device
    row = torch.tensor([[token for sequence in ids for token in sequence]], device=device)
    positions = torch.tensor([[at for sequence in ids for at in range(len(sequence))]], device=device)
    lengths = [len(sequence) for sequence in ids]
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    bounds = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": max(lengths), "max_length_k": max(lengths)}
    hidden = model.model(input_ids=row, position_ids=positions, use_cache=False, **bounds).last_hidden_state
    return model.score(hidden[0, ends[1:].long() - 1])[:, 0]  # type: ignore[no-any-return]


VARLEN = "torch_varlen"  # torch's own flash attention of variable length, under the name that transformers knows it by


def _attend_varlen(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, scaling: float, **bounds: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it. Shapes: query [1, N, T, H], key and value [1, K, T, H] -> [1, T, N, H]."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    ends, longest = bounds["cu_seq_lens_q"], bounds["max_length_q"]
    if not q.is_cuda:  # torch has no such kernel on a CPU
        return _attend_one_by_one(q, k, v, ends.tolist(), scaling)[None], None
    from torch.nn.attention.varlen import varlen_attn

    # Releases before 2.12 take fewer key heads than query heads without being told.
    is_grouped = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    half = torch.bfloat16 if q.dtype == torch.float32 else q.dtype  # what autocast would do
    out = varlen_attn(
        *(x.to(half) for x in (q, k, v)), ends, ends, longest, longest, scale=scaling, window_size=(-1, 0), **is_grouped
    )
    assert isinstance(out, Tensor)
    return out.to(q.dtype)[None], None


def _attend_one_by_one(q: Tensor, k: Tensor, v: Tensor, ends: list[int], scaling: float) -> Tensor:
    parts = [
        functional.scaled_dot_product_attention(
            *(x[start:end].transpose(0, 1) for x in (q, k, v)), is_causal=True, scale=scaling, enable_gqa=True
        ).transpose(0, 1)
        for start, end in itertools.pairwise(ends)
    ]
    return torch.cat(parts)


transformers.AttentionInterface.register(VARLEN, _attend_varlen)


def load_transformers(
    folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu", attention: str = "sdpa"
) -> Any:
    """Loads the checkpoint in `folder` with transformers."""
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention
    )
    return model.eval().to(device)


def choose_experts(model: Any, ids: list[list[int]]) -> str:
    """Sets and returns the way that transformers computes this model's experts fastest, by a batch of token lists.

    Not "batched_mm", which copies an expert's weights for each token: 6 MB at Qwen3-30B-A3B's sizes.
    """
    score, seconds = TransformersScorer(model).score_tokens, {}
    for name in ("eager", "grouped_mm"):
        model.config._experts_implementation = name
        score(ids)
        seconds[name] = measure_seconds(lambda: score(ids), model.device)
    model.config._experts_implementation = fastest = min(seconds, key=seconds.__getitem__)
    return fastest


def _attend_per_sequence(qkv: Tensor, spec: AttentionSpec, tree: Tree) -> Tensor:
    """One causal `scaled_dot_product_attention` a sequence: what sequences share is computed for each."""
    heads = spec.heads
    num_queries = len(tree.token_ids)  # what an engine remembers has keys alone
    out = qkv.new_empty(num_queries, heads.q_width)
    for node, _, _, _ in tree.read_queries.tolist():
        blocks = tree.node_blocks[tree.node_block_offsets[node] : tree.node_block_offsets[node + 1]].long()
        path = tree.block_tokens[blocks].flatten().long()
        path = path[path >= 0]
        q, k, v = (
            part.unflatten(1, (-1, heads.head_dim)).transpose(0, 1).unsqueeze(0)
            for part in qkv[path].split([heads.q_width, heads.kv_width, heads.kv_width], dim=1)
        )
        k, v = (part.repeat_interleave(heads.group, dim=1) for part in (k, v))
        o = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=spec.scale)
        out[path[path < num_queries]] = o[0].transpose(0, 1).flatten(1)[path < num_queries]
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
