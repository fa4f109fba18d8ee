"""Safetensors files of a checkpoint folder, opened with distrust and read as late as possible.

Opening a folder reads headers only. This module knows file formats; it does not know what a tensor is for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from codescaler.errors import HostileFile, MissingTensor, OutputUnavailable
from codescaler.io.files import find_file, read_start, require_file
from codescaler.io.json import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
VALUE_HEAD_FILE = "value_head.safetensors"  # LLaMA-Factory's, beside a language model or an adapter

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MAPPED_BYTES = 32 * 2**20  # read from one mapping; opening a file again takes half a millisecond
# 36,000 tensors of 128 experts in 94 layers, in one file, take 5 MB. Twice as many objects take 100 MB when parsed.
_MAX_HEADER_BYTES, _MAX_TENSORS = 16 * 2**20, 2**16
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"} | {
    "I8": "int8",
    "I32": "int32",
    "F8_E4M3": "float8_e4m3fn",
}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes a safetensors file of PyTorch tensors.

    Raises: OutputUnavailable, e.g. on a full disk or in a folder without permission.
    """
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise OutputUnavailable(f"{path} cannot be written ({error}); make room, or give another output") from error


class TensorSource(Protocol):
    """Something that a tensor can be read from; shape and dtype are known before."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...

    @property
    def origin(self) -> str:
        """File and name, for messages."""
        ...

    def read(self) -> torch.Tensor: ...


class TensorFile:
    """A safetensors file, mapped anew whenever much has been read from it.

    Pages that were read count as the process's memory until their mapping goes, which it does with the last tensor
    read from it: so a loader that keeps none of them never holds the file beside its own copy.

    Raises:
        MissingTensor: there is no such file.
        HostileFile: safetensors refuses the file.
    """

    def __init__(self, path: Path) -> None:
        require_file(path)
        self.path = path
        self._version: tuple[int, ...] | None = None
        self._open()

    def _open(self) -> None:
        if self._version is None:
            self._check_header()
        try:
            self._handle: Any = safe_open(self.path, framework="pt", device="cpu")
            status = self.path.stat()
        except (SafetensorError, OSError) as error:
            # Not chained: a traceback would show what the file says as it stands.
            raise HostileFile(f"{self.path} is damaged ({error}); fetch the file again.") from None
        version = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if self._version not in (None, version):
            raise HostileFile(f"{self.path} has changed while it was read; leave it as it is, and load it again.")
        self._version, self._unread_bytes = version, _MAPPED_BYTES

    def _check_header(self) -> None:
        """Refuses a header that could take all memory when safetensors parses it."""
        num_bytes = int.from_bytes(read_start(self.path, 8), "little")
        if num_bytes > _MAX_HEADER_BYTES:
            raise HostileFile(
                f"{self.path} is damaged: its header takes {num_bytes} bytes, above the limit of {_MAX_HEADER_BYTES}; "
                "fetch the file again."
            )
        num_tensors = read_start(self.path, 8 + num_bytes).count(b"{", 8)
        if num_tensors > _MAX_TENSORS:
            raise HostileFile(
                f"{self.path} holds {num_tensors} tensors, above the limit of {_MAX_TENSORS}; save it in several files."
            )

    def read_headers(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Returns each tensor's shape and dtype."""
        slices = {name: self._handle.get_slice(name) for name in self._handle.keys()}  # noqa: SIM118 (no mapping)
        return {name: (tuple(view.get_shape()), _get_dtype_name(view.get_dtype())) for name, view in slices.items()}

    def read(self, name: str) -> torch.Tensor:
        """Returns a view of the mapped file."""
        if self._unread_bytes <= 0:
            self._open()
        tensor: torch.Tensor = self._handle.get_tensor(name)
        self._unread_bytes -= tensor.nbytes
        return tensor


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file, not read yet.

    `dtype` is torch's name for the dtypes that models are stored in, safetensors' own for any other.
    """

    file: TensorFile = field(repr=False, compare=False)
    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def origin(self) -> str:
        return f"{self.file.path}: {self.name}"

    def read(self) -> torch.Tensor:
        """Returns a view of the mapped file: nothing is copied, so do not write to it."""
        try:
            tensor = self.file.read(self.name)
        except SafetensorError as error:
            raise HostileFile(f"{self.origin} cannot be read ({error}); fetch the file again.") from None
        return tensor


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Reads a file's header and returns its tensors by name.

    Raises:
        MissingTensor: there is no such file.
        HostileFile: safetensors refuses the file.
    """
    file = TensorFile(path)
    return {name: StoredTensor(file, name, *header) for name, header in file.read_headers().items()}


def open_model_files(folder: Path) -> dict[str, StoredTensor]:
    """Returns every tensor of a folder's weights by the name it has in the file.

    The single file wins over an index, as in transformers.

    Raises:
        MissingTensor: there are no weights, or a shard or a tensor that the index promises is absent.
        HostileFile: a file is damaged, or the index points outside the folder.
    """
    if path := find_file([folder], SINGLE_FILE):
        return open_safetensors(path)
    if find_file([folder], INDEX_FILE):
        return _open_shards(folder)
    shards = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
    if shards:
        raise MissingTensor(
            f"{folder} has {len(shards)} shards, such as {shards[0][:80]}, and no {INDEX_FILE}, which says what each "
            "one holds; fetch that file too."
        )
    raise MissingTensor(explain_no_safetensors(folder, f"{SINGLE_FILE} or {INDEX_FILE}"))


def explain_no_safetensors(folder: Path, wanted: str) -> str:
    """Returns the message for a folder without `wanted`; it names pickles if that is all there is."""
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    found = f" It holds {pickles[0]}, a pickle, which can run code and is never read." if pickles else ""
    return f"{folder} has no {wanted}.{found} Save the model again as safetensors, with save_pretrained."


def _open_shards(folder: Path) -> dict[str, StoredTensor]:
    index_path = folder / INDEX_FILE
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise HostileFile(f"{index_path}: weight_map is {str(weight_map)[:80]}, not a map of tensors to files.")
    shards = {
        name: open_safetensors(_locate_shard(folder, name)) for name in dict.fromkeys(map(str, weight_map.values()))
    }
    for shard, held in shards.items():
        unlisted = sorted(held.keys() - weight_map.keys())
        if unlisted:
            raise HostileFile(f"{folder / shard} holds {unlisted[0]}, which {INDEX_FILE} does not list; fix either.")
    tensors = {}
    for name, shard in weight_map.items():
        if name not in shards[str(shard)]:
            raise MissingTensor(f"{folder / str(shard)} lacks {name}, which {INDEX_FILE} promises; fetch it again.")
        tensors[name] = shards[str(shard)][name]
    return tensors


def _locate_shard(folder: Path, name: str) -> Path:
    """Returns the path of a shard, which must be a plain name and must not lead out of the folder."""
    if not name.endswith(".safetensors") or "/" in name or "\\" in name or "\0" in name:
        raise HostileFile(f"{folder / INDEX_FILE} names the shard {name[:80]!r}; only plain *.safetensors names do.")
    # A hub snapshot is a folder of links to ../../blobs: there the repository's cache folder is the limit.
    root = folder.resolve()
    if root.parent.name == "snapshots":
        root = root.parent.parent
    try:
        target = (folder / name).resolve()
    except (RuntimeError, ValueError) as error:  # a link to itself, a lone surrogate
        raise HostileFile(
            f"{folder / INDEX_FILE} names the shard {name[:80]!r}, which cannot be a file ({type(error).__name__}); "
            "fetch the checkpoint again."
        ) from error
    if not target.is_relative_to(root):
        raise HostileFile(f"{folder / name} is a link that leads out of {root}; put the file itself there.")
    return folder / name


def require_scale(scale: torch.Tensor, origin: str) -> torch.Tensor:
    """Returns a quantised weight's scale. Raises: HostileFile: it is not positive."""
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise HostileFile(f"{origin} holds a scale that is no positive number; fetch it again.")
    return scale


def _get_dtype_name(stored: str) -> str:
    return _DTYPES.get(stored, stored)
