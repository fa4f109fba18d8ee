"""Results of the kit: rows of every part in one file, which a later call goes on with, and the table of them."""

import json
import threading
from pathlib import Path
from typing import Any

from benches.gpu.parts import Part
from codescaler.io.tables import format_table

_LOG_CHARACTERS = 400  # of a part that died, in its row


class Results:
    """The rows so far. The file is written anew with every row, so that a call that is killed loses none."""

    def __init__(self, folder: Path, earlier: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.text, self.log = (folder / name for name in ("results.json", "table.txt", "log.txt"))
        self.log.write_bytes(b"")
        self.parts: dict[str, list[dict[str, Any]]] = {} if earlier is None else json.loads(earlier.read_text())
        self._new: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def start(self, part: Part) -> None:
        """Drops what an earlier call had to say of the part's end and of what failed; what went well stays."""
        rows = self.parts.get(part.name, [])
        if part.is_counted and not any(row["name"] == "time" and row["is_ok"] for row in rows):
            rows = []
        self.parts[part.name] = [row for row in rows if row["is_ok"] is not False and row["name"] != "time"]

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Adds a row. Rows of one name that this call gives are added up: processes share the work."""
        with self._lock:
            rows = self.parts[part]
            at = next((i for i, old in enumerate(rows) if old["name"] == row["name"]), len(rows))
            rows[at:] = [_add_up(rows[at], row) if (part, row["name"]) in self._new else row, *rows[at + 1 :]]
            self._new.add((part, row["name"]))
            partial = self.file.with_suffix(".partial")
            partial.write_text(json.dumps(self.parts, indent=1) + "\n")
            partial.replace(self.file)

    def list_names_done(self, part: str) -> list[str]:
        return [row["name"] for row in self.parts.get(part, [])]

    def is_finished(self, part: str) -> bool:
        """Whether the part ran to its end and nothing failed."""
        rows = self.parts.get(part, [])
        return any(row["name"] == "time" for row in rows) and all(row["is_ok"] is not False for row in rows)

    def has_failed(self) -> bool:
        return any(row["is_ok"] is False for rows in self.parts.values() for row in rows)

    def end_of_log(self) -> str:
        return self.log.read_text(errors="replace").strip().rpartition("\n")[2][-_LOG_CHARACTERS:]

    def write_table(self) -> str:
        """Lays every row out, writes the table beside the results, and returns it."""
        verdicts = {True: "ok", False: "FAIL", None: ""}
        lines = [
            (part, row["name"], verdicts[row["is_ok"]], _show(row["figures"]), row["fault"].replace("\n", " "))
            for part, rows in self.parts.items()
            for row in rows
        ]
        text = format_table(("part", "row", "", "figures", "fault"), lines)
        num_failed = sum(line[2] == "FAIL" for line in lines)
        text += f"\n\n{len(lines)} rows, {num_failed} failed."
        self.text.write_text(text + "\n")
        return text


def _add_up(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    figures = {name: old["figures"].get(name, 0) + count for name, count in new["figures"].items()}
    verdicts = (old["is_ok"], new["is_ok"])
    is_ok = None if None in verdicts else all(verdicts)
    fault = "; ".join(filter(None, (old["fault"], new["fault"])))
    return {"name": new["name"], "is_ok": is_ok, "figures": figures, "fault": fault}


def _show(figures: dict[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
