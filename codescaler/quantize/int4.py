"""Folders with weights of 4 bits: a quarter to a third of bfloat16's size on disk, and the same arithmetic.

A linear layer has a scale for a group of inputs, the embedding has 8 bits and a scale for each token. They are expanded
when the model is loaded (`checkpoint.packed`). Weights are rounded one layer after the other (`layers`), for the inputs
that they have on programs (`rounding`). Norms, biases and the head stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from codescaler.checkpoint.compressed_tensors import make_packing_config
from codescaler.checkpoint.download import resolve_folder
from codescaler.checkpoint.load import Checkpoint, open_checkpoint
from codescaler.checkpoint.packed import pack_integers, scale_integers
from codescaler.checkpoint.save import new_folder
from codescaler.checkpoint.tensor_files import SINGLE_FILE
from codescaler.errors import InvalidInput, UnsupportedModel, WeightsError
from codescaler.model.decoder import build_decoder
from codescaler.model.projections import list_linear_names
from codescaler.ops import Backend, Tree, select_backend
from codescaler.ops.autograd import make_differentiable
from codescaler.ops.plan import plan
from codescaler.quantize.folders import require_own_tensors, save_folder
from codescaler.quantize.layers import round_layers
from codescaler.quantize.rounding import choose_scales, round_by_moments
from codescaler.quantize.sensitivity import PROGRAMS, count_bytes, list_programs
from codescaler.text.token_ids import Int32
from codescaler.types import GROUP_SIZES

BITS = {"Linear": 4, "Embedding": 8}
_EMBEDDING = "embed_tokens"
_BATCH_TOKENS = 8192
_MEASURED = 5  # every so many problems the change of scores is measured


@dataclass(frozen=True)
class Int4Report:
    """What `quantize_to_int4` wrote.

    `change` is that of a problem's scores, RMS over their standard deviation, on `num_measured` problems. Weights were
    rounded for others, which have `num_tokens` tokens.
    """

    folder: Path
    group_size: int
    num_measured: int
    num_tokens: int
    change: float
    bytes_before: int
    bytes_after: int


def quantize_to_int4(
    model: str | Path,
    folder: str | Path,
    *,
    group_size: int = 64,
    sensitivity_data: str | Path | None = None,
    base_model: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Int4Report:
    """Writes a reward model with linear layers of 4 bits and an embedding of 8 to `folder`, whole or not at all.

    `sensitivity_data` is a file of groups of programs; None: the one that comes with the package. The change of scores
    is measured on every fifth problem, and weights are rounded for inputs of the others. A few hundred programs like
    those that will be scored are best. `group_size` inputs share a scale.

    Raises:
        InvalidInput: the folder is there already; the model is quantised; the data has less than two problems with four
            different programs; as `save_int4`.
        UnsupportedModel, WeightsError: the model cannot be used.
    """
    source = resolve_folder(model, revision=revision, local_files_only=local_files_only)
    checkpoint = open_checkpoint(source, base_model=base_model, local_files_only=local_files_only)
    if checkpoint.config.quantized_linears or checkpoint.config.packed_bits:
        raise InvalidInput(f"{source} is quantised already; give the model as it was before")
    backend = select_backend("auto", "cpu")
    with new_folder(Path(folder)) as written:
        programs = list(list_programs(checkpoint, sensitivity_data or PROGRAMS))
        measured = programs[::_MEASURED]
        observed = [lists for index, lists in enumerate(programs) if index % _MEASURED]
        if not observed:
            raise InvalidInput(f"{sensitivity_data} has one problem with four different programs; give two or more")
        save_int4(checkpoint, backend, observed, written, group_size)
        after = open_checkpoint(written)
        change = _measure_change(*(_score(opened, backend, measured) for opened in (checkpoint, after)))
        return Int4Report(
            Path(folder),
            group_size,
            len(measured),
            sum(len(tokens) for lists in observed for tokens in lists),
            change,
            count_bytes(checkpoint),
            (written / SINGLE_FILE).stat().st_size,
        )


def _score(checkpoint: Checkpoint, backend: Backend, programs: Sequence[Sequence[Int32]]) -> list[Tensor]:
    """Returns each problem's scores in float32, in the order of its tree."""
    cpu = torch.device("cpu")
    decoder = build_decoder(checkpoint.config, checkpoint.get, backend, torch.float32, cpu)
    with torch.inference_mode():
        found = []
        for lists in programs:
            (batch,) = plan(lists, 10**9)
            scores = decoder.forward(Tree.from_batch(batch, cpu))[1]
            assert scores is not None
            found.append(scores)
        return found


def _measure_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Returns the RMS change of scores within problems, over their standard deviation."""
    changes = [new - old for old, new in zip(before, after, strict=True)]
    moved, spread = (
        torch.cat([scores - scores.mean() for scores in lists]).square().mean() for lists in (changes, before)
    )
    if not (torch.isfinite(moved) and 0 < spread < torch.inf):
        raise WeightsError("the model gives scores that are not finite, or all the same; look for such weights")
    return float((moved / spread).sqrt())


def save_int4(
    checkpoint: Checkpoint,
    backend: Backend,
    programs: Sequence[Sequence[Int32]],
    folder: Path,
    group_size: int,
) -> None:
    """Writes a reward model with packed weights: all of the folder, head included.

    `programs` are the token lists of each problem, on which the inputs of linear layers are observed; `group_size` is
    how many inputs share a scale.

    Raises:
        WeightsError: as `save_body` and `round_layers`.
        InvalidInput: the group size is none, or does not divide the model's widths.
        UnsupportedModel: there are experts, or fused projections, or a head that is rows of the output layer.
    """
    config = checkpoint.config
    if group_size not in GROUP_SIZES:
        raise InvalidInput(f"group_size {group_size}; give one of {', '.join(map(str, GROUP_SIZES))}")
    if config.experts is not None:
        raise UnsupportedModel(
            f"{checkpoint.folder}: int4 folders are not written of experts; score this one as it is."
        )
    require_own_tensors(checkpoint, "int4", "score this one as it is")
    linears = sorted(list_linear_names(config.num_layers))
    for name in linears:
        num_inputs = checkpoint.sources[f"{name}.weight"].shape[1]
        if num_inputs % group_size:
            raise InvalidInput(
                f"group_size {group_size} does not divide the {num_inputs} inputs of {name}; give a smaller one of "
                f"{', '.join(map(str, GROUP_SIZES))}"
            )
    packed = {f"{name}.weight" for name in (*linears, _EMBEDDING)}
    tensors = {role: checkpoint.read_tensor(role) for role in checkpoint.sources if role not in packed}

    def round_weight(names: Sequence[str], weight: Tensor, moments: Tensor | None, kind: str, size: int) -> Tensor:
        scale = choose_scales(weight, moments, BITS[kind], size).bfloat16()
        integers = round_by_moments(weight, scale.float(), moments, BITS[kind])
        counts = [checkpoint.sources[f"{name}.weight"].shape[0] for name in names]
        for name, part, scales in zip(names, integers.split(counts), scale.split(counts), strict=True):
            tensors.update(_pack(name, part, scales, BITS[kind]))
        return scale_integers(integers, scale.float()).bfloat16()  # as it is read

    embedding = checkpoint.read_tensor(f"{_EMBEDDING}.weight").float()
    embedding = round_weight([_EMBEDDING], embedding, None, "Embedding", config.hidden_size)
    cpu = torch.device("cpu")
    decoder = build_decoder(config, checkpoint.get, make_differentiable(backend), backend.fastest_dtype, cpu)
    trees = [Tree.from_batch(batch, cpu) for lists in programs for batch in plan(lists, _BATCH_TOKENS)]
    round_layers(decoder, embedding, trees, partial(round_weight, kind="Linear", size=group_size))
    save_folder(checkpoint, tensors, make_packing_config(BITS, group_size), folder, torch.bfloat16)


def _pack(name: str, integers: Tensor, scale: Tensor, bits: int) -> dict[str, Tensor]:
    """Returns the three tensors of a packed weight, by canonical name."""
    at = f"{name}.weight"
    return {
        f"{at}_packed": pack_integers(integers, bits),
        f"{at}_scale": scale.contiguous(),
        f"{at}_shape": torch.tensor(integers.shape),
    }
