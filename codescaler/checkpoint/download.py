"""The folder of a model: a local one, the one in the package, or a hub id's after a download."""

import os
from contextlib import suppress
from pathlib import Path

from codescaler.errors import InvalidInput, WeightsError

DEFAULT_MODEL = "nano"
PACKAGED_MODEL = Path(__file__).parents[1] / DEFAULT_MODEL
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]
_HUB_IGNORED = ["*/*.safetensors"]  # other formats of the same model, in folders of their own


def resolve_folder(
    model: str | Path | None = None, *, revision: str | None = None, local_files_only: bool = False
) -> Path:
    """Returns the folder of a model: a local one as it is, a hub id after a download of its data files.

    None is the model in the package, whatever the current folder holds. So is the name "nano", unless a local folder
    has it: a local folder comes first for every name.

    Raises:
        InvalidInput: a revision was given for a local folder, or for the model in the package.
        WeightsError: there is no such folder, or the hub did not deliver.
    """
    if model is None:
        return _locate_packaged_folder(revision)
    path = Path(model)
    with suppress(RuntimeError, ValueError):  # "~nobody": a user without a home; "~\0": no name of a user
        path = path.expanduser()
    # Not Path.is_dir and is_file, which raise for a name that is too long.
    if model and os.path.isdir(path):  # noqa: PTH112 - Path("") would be the current folder
        if revision is not None:
            raise InvalidInput(f"revision {revision!r} was given for the local folder {path}; leave it out.")
        return path
    if model == DEFAULT_MODEL:
        return _locate_packaged_folder(revision)
    if os.path.isfile(path):  # noqa: PTH113
        raise WeightsError(f"{path} is a file; give the folder that holds it.")
    if isinstance(model, Path) or not model or model[0] in f"{os.sep}.~" or model.count(os.sep) > 1:
        raise WeightsError(f"no such folder: {str(model)!r}; give a local folder or a hub id such as 'owner/name'.")
    try:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            model,
            revision=revision,
            local_files_only=local_files_only,
            allow_patterns=_HUB_FILES,
            ignore_patterns=_HUB_IGNORED,
        )
    # Offline, gated, not found, a malformed id, a full disk, no huggingface_hub: too many unrelated classes
    # to list, and the user needs the same from all: which id it was, why, and what to try.
    except Exception as error:
        place = "in the local cache" if local_files_only else "on the hub"
        at = "" if revision is None else f" at revision {revision!r}"
        raise WeightsError(
            f"{model!r}{at} is no local folder and could not be had {place} "
            f"({type(error).__name__}: {error}). "
            "Check the spelling, the network and, for a gated model, `hf auth login`; or give a local folder."
        ) from error
    return Path(folder)


def _locate_packaged_folder(revision: str | None) -> Path:
    """Returns the folder of the model in the package."""
    if revision is not None:
        raise InvalidInput(f"revision {revision!r} was given for {DEFAULT_MODEL}, which is packaged; leave it out.")
    if not (PACKAGED_MODEL / "config.json").is_file():
        raise WeightsError(
            f"this installation of codescaler has no model {DEFAULT_MODEL!r} ({PACKAGED_MODEL} holds no config.json); "
            "install a release that has it, or name another: a folder or a hub id such as 'owner/name'."
        )
    return PACKAGED_MODEL
