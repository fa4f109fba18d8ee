"""The folder of a training run: settings, log, checkpoints to resume from, and the best model so far.

    settings.json          what the run was asked for; a run is resumed with the same only
    log.jsonl              one JSON object a step or validation
    checkpoint-000120/     weights that learn, optimizer and counters after 120 steps; the last one is kept
    model/                 the reward model, best on validation

Everything is written under another name and renamed when it is whole, so that a run killed at any moment leaves the
last good one. Nothing here is pickled.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from codescaler.errors import InvalidInput, WeightsError
from codescaler.io.json import read_json

SETTINGS_FILE, LOG_FILE, MODEL_FOLDER = "settings.json", "log.jsonl", "model"
_STATE_FILE, _COUNTERS_FILE = "state.safetensors", "counters.json"
_OLD = ".model-before"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


class RunFolder:
    """One run's folder. Any process may read it; the first one alone calls what writes."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    def open(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Makes the folder, or with `resume` goes on in it.

        Raises: InvalidInput if it holds something already, or a run of other settings, or cannot be written.
        """
        own = self.path / SETTINGS_FILE
        try:
            # What begins with a dot may be all that a killed run left.
            if self.path.exists() and any(not path.name.startswith(".") for path in self.path.iterdir()):
                if not resume or not own.is_file():
                    hint = "resume it (resume=True, --resume), or " if own.is_file() else ""
                    raise InvalidInput(f"{self.path} is there already; {hint}give a new folder")
                _require_same(read_json(own), settings, own)
            self.path.mkdir(parents=True, exist_ok=True)
            _replace_file(own, json.dumps(settings, indent=2) + "\n")
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be written ({error}); give another folder") from error
        before = self.path / _OLD
        if before.exists():  # killed between the two renames of `write_model`
            if not (self.path / MODEL_FOLDER).exists():
                before.rename(self.path / MODEL_FOLDER)
            shutil.rmtree(before, ignore_errors=True)

    def find_last_checkpoint(self) -> Path | None:
        """The newest checkpoint, or None."""
        return max(self._list_checkpoints(), key=_parse_num_steps, default=None)

    def _list_checkpoints(self) -> list[Path]:
        return [path for path in self.path.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]

    def read_checkpoint(self, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Returns tensors and counters."""
        try:
            tensors = load_file(folder / _STATE_FILE)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{folder} cannot be read ({error}); remove it to go on from none") from error
        return tensors, read_json(folder / _COUNTERS_FILE)

    def write_checkpoint(self, step: int, tensors: Mapping[str, torch.Tensor], counters: Mapping[str, Any]) -> None:
        """Writes the state after `step` steps, and then removes older ones."""

        def fill(folder: Path) -> None:
            save_file(dict(tensors), folder / _STATE_FILE)
            (folder / _COUNTERS_FILE).write_text(json.dumps(counters) + "\n", encoding="utf-8")

        target = self.path / f"checkpoint-{step:06d}"
        scratch = self._fill_folder(target.name, fill)
        older = self._list_checkpoints()
        scratch.rename(target)
        for folder in older:
            shutil.rmtree(folder)

    def write_model(self, fill: Callable[[Path], None]) -> None:
        """Has `fill` write the model, and then puts it in place of the one before."""
        scratch, target, before = self._fill_folder(MODEL_FOLDER, fill), self.path / MODEL_FOLDER, self.path / _OLD
        if target.exists():
            target.rename(before)
        scratch.rename(target)
        shutil.rmtree(before, ignore_errors=True)

    def _fill_folder(self, name: str, fill: Callable[[Path], None]) -> Path:
        scratch = self.path / f".{name}-unfinished"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir()
            fill(scratch)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(scratch, ignore_errors=True)
            last = self.find_last_checkpoint()
            kept = f"{last} is intact" if last else "there is no checkpoint yet"
            raise InvalidInput(
                f"{self.path / name} cannot be written ({error}); make room and resume the run: {kept}"
            ) from error
        return scratch

    def keep_log_until(self, step: int) -> None:
        """Cuts the log to what was known after `step` steps, 0 for nothing: what followed will be done again."""
        path = self.path / LOG_FILE
        if path.exists():
            lines = [
                line for line in path.read_text(encoding="utf-8").splitlines() if step and _parse_step(line) <= step
            ]
            _replace_file(path, "".join(f"{line}\n" for line in lines))

    def append_log(self, record: Mapping[str, Any]) -> None:
        """Adds a line to the log."""
        with (self.path / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """Every line of the log."""
        path = self.path / LOG_FILE
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _parse_num_steps(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _parse_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line cut short when the run was killed
        return float("inf")


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    before, now = (json.loads(json.dumps(settings)) for settings in (before, now))
    for key in dict.fromkeys([*now, *before]):  # the settings before the data that they make
        if before.get(key) != now.get(key):
            raise InvalidInput(
                f"{where} is of a run with {key}={before.get(key)!r:.80}, now {now.get(key)!r:.80}; resume with the "
                "same, or give a new folder"
            )


def _replace_file(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}-unfinished")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
