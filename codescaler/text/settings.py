"""`TextSettings`: what decides which ids a text becomes, beside tokenizer and template. One record for every digest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codescaler.errors import InvalidInput
from codescaler.io.files import find_file, read_text_file
from codescaler.io.resumable import compute_digest
from codescaler.text.control_tokens import ControlTokenMode
from codescaler.text.program import normalize_program

BosRule = Literal["tokenizer", "template"]

TEMPLATE_FILE, SYSTEM_FILE = "chat_template.jinja", "system_prompt.txt"
_MAX_SYSTEM_BYTES = 2**16

BOS_RULES: dict[BosRule, str] = {"tokenizer": "one where the tokenizer puts one", "template": "as the template writes"}
PROGRAM_TEXT = "without outer white space, BOM and carriage returns"


@dataclass(frozen=True)
class TextSettings:
    """How conversations are read.

    Attributes:
        system: the system prompt of a conversation that says nothing of one. None and "" put none.
        control_tokens: what control tokens in messages are, "text" or "tokens". None is "text" in programs that are
            compared, and "tokens" in what is scored as given.
        chat_template: the text of a chat template in place of the folder's own. None takes the folder's.
        bos: "tokenizer" begins each text with exactly one BOS if the tokenizer puts one there. "template" leaves the
            text as rendered, as transformers' `apply_chat_template` does.
    """

    system: str | None = None
    control_tokens: ControlTokenMode | None = None
    chat_template: str | None = None
    bos: BosRule = "tokenizer"

    def __post_init__(self) -> None:
        if self.system is not None and not isinstance(self.system, str):
            raise InvalidInput(f"system is a {type(self.system).__name__}; give the text of the system prompt")
        if self.chat_template is not None and not isinstance(self.chat_template, str):
            kind = type(self.chat_template).__name__
            raise InvalidInput(f"chat_template is a {kind}; give the text of the chat template")
        if self.bos not in BOS_RULES:
            raise InvalidInput(f"bos={self.bos!r}; give 'tokenizer' or 'template'")
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
            "bos": BOS_RULES[self.bos],
            "chat_template": compute_digest([self.chat_template]) if self.chat_template is not None else None,
            "program_text": PROGRAM_TEXT if are_programs else "as given",
        }


DEFAULT_SETTINGS = TextSettings()


def read_system_prompt(folders: Sequence[Path]) -> str | None:
    """Returns the system prompt of a model: the file of the first folder that has one, or None. It is untrusted text.

    White space around it, which an editor puts there, is no part of it.

    Raises: HostileFile if it is no regular file, too large, or not UTF-8.
    """
    path = find_file(folders, SYSTEM_FILE)
    return None if path is None else normalize_program(read_text_file(path, _MAX_SYSTEM_BYTES))


def write_system_prompt(system: str | None, folder: Path) -> None:
    """Makes a system prompt that of a model's folder. An empty one takes the folder's away, None leaves it."""
    if system:
        (folder / SYSTEM_FILE).write_text(f"{system}\n", encoding="utf-8", newline="\n")
    elif system is not None:
        (folder / SYSTEM_FILE).unlink(missing_ok=True)


def write_text_settings(settings: TextSettings, folder: Path) -> None:
    """Makes a given chat template and system prompt those of a model's folder. What is None stays as it is."""
    write_system_prompt(settings.system, folder)
    if settings.chat_template is not None:
        (folder / TEMPLATE_FILE).write_text(settings.chat_template, encoding="utf-8", newline="")
