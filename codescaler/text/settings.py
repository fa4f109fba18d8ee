"""`TextSettings`: what decides which ids a text becomes, beside tokenizer and template. One record for every digest."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codescaler.errors import HostileFile, InvalidInput
from codescaler.io.resumable import compute_digest
from codescaler.text.control_tokens import ControlTokenMode
from codescaler.text.program import normalize_program

SYSTEM_FILE = "system_prompt.txt"
_MAX_SYSTEM_BYTES = 2**16

BOS_RULE = "one where the tokenizer puts one"
PROGRAM_TEXT = "without outer white space, BOM and carriage returns"


@dataclass(frozen=True)
class TextSettings:
    """How conversations are read.

    Attributes:
        system: the system prompt of a conversation that says nothing of one. None and "" put none.
        control_tokens: what control tokens in messages are, "text" or "tokens". None is "text" in programs that are
            compared, and "tokens" in what is scored as given.
    """

    system: str | None = None
    control_tokens: ControlTokenMode | None = None

    def __post_init__(self) -> None:
        if self.system is not None and not isinstance(self.system, str):
            raise InvalidInput(f"system is a {type(self.system).__name__}; give the text of the system prompt")
        if self.control_tokens not in (None, "text", "tokens"):
            raise InvalidInput(f"control_tokens={self.control_tokens!r}; give 'text', 'tokens', or None")

    def choose_mode(self, *, is_program: bool) -> ControlTokenMode:
        """Returns what control tokens are in a conversation."""
        return self.control_tokens or ("text" if is_program else "tokens")

    def describe(self, *, are_programs: bool) -> dict[str, Any]:
        """Returns what scores depend on, as JSON holds it. `are_programs` is as `Conversation.is_program`.

        A file of scores keeps it, and a file of other settings is refused by the name of the setting.
        """
        return {
            "system_prompt": compute_digest([self.system]) if self.system else None,
            "control_tokens": self.choose_mode(is_program=are_programs),
            "bos": BOS_RULE,
            "program_text": PROGRAM_TEXT if are_programs else "as given",
        }


DEFAULT_SETTINGS = TextSettings()


def read_system_prompt(folders: Sequence[Path]) -> str | None:
    """Returns the system prompt of a model: the file of the first folder that has one, or None. It is untrusted text.

    White space around it, which an editor puts there, is no part of it.

    Raises: HostileFile if it is no regular file, too large, or not UTF-8.
    """
    path = next((path for path in (folder / SYSTEM_FILE for folder in folders) if os.path.lexists(path)), None)
    if path is None:
        return None
    if not path.is_file():
        raise HostileFile(f"{path} is no regular file; put the system prompt there as text, or take it away.")
    with path.open("rb") as file:
        data = file.read(_MAX_SYSTEM_BYTES + 1)
    if len(data) > _MAX_SYSTEM_BYTES:
        raise HostileFile(f"{path} takes more than {_MAX_SYSTEM_BYTES} bytes, no system prompt does; fetch it again.")
    try:
        return normalize_program(data.decode())
    except UnicodeDecodeError as error:
        raise HostileFile(f"{path} is not UTF-8 ({error}); fetch the file again.") from error


def write_system_prompt(system: str | None, folder: Path) -> None:
    """Makes a system prompt that of a model's folder. An empty one takes the folder's away, None leaves it."""
    if system:
        (folder / SYSTEM_FILE).write_text(f"{system}\n", encoding="utf-8", newline="\n")
    elif system is not None:
        (folder / SYSTEM_FILE).unlink(missing_ok=True)
