"""Compares token ids of chat templates with transformers: `python benches templates FOLDER [--save]`.

FOLDER holds files OWNER+REPOSITORY/*.jinja, such as the ones that TRL or axolotl carry. Templates of the tests are
always among them. Each renders a program, with and without a system prompt, with and without control tokens in the
messages as tokens and as text. A byte-level tokenizer knows every mark of the template as a control token. transformers
renders and encodes the same by `apply_chat_template`.
"""

import argparse
import json
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from codescaler.errors import CodescalerError, InvalidInput
from codescaler.io.tables import format_table
from codescaler.text.chat import Chat, load_chat
from codescaler.text.control_tokens import ControlTokenMode

RESULT = Path(__file__).parents[1] / "results/templates.json"
OWN = Path(__file__).parents[2] / "tests/text/templates"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
_MARK = re.compile(r"<[|｜/]?[A-Za-z_][\w|｜▁./-]*>|\[/?[A-Z_]+\]")  # noqa: RUF001 (DeepSeek writes them so)
_TURNS = [
    {"role": "user", "content": "Add two numbers.\n"},
    {"role": "assistant", "content": "def add(a, b):\n    return a + b\n"},
]
_SYSTEM = {"role": "system", "content": "You rate programs."}
OUTCOMES = ("equal", "both refuse", "no place for a system prompt", "unequal")


def build_conversations(marks: Sequence[str]) -> Iterator[tuple[str, list[dict[str, str]], ControlTokenMode]]:
    """Yields the name of each case, its messages, and what control tokens in them are."""
    hostile = "".join(f"# {mark}\nx = 1  {mark}\n" for mark in marks)
    for with_system in (False, True):
        name = "system" if with_system else "no system"
        first = [_SYSTEM] if with_system else []
        yield name, [*first, *_TURNS], "tokens"
        with_tokens = [{**turn, "content": f"{turn['content']}{hostile}"} for turn in [*first, *_TURNS]]
        yield f"{name}, control tokens", with_tokens, "tokens"
        yield f"{name}, control tokens as text", with_tokens, "text"


def save_tokenizer(folder: Path, marks: Sequence[str]) -> None:
    """Writes a tokenizer of single bytes that knows these marks, every second one as a special token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL.values()])
    for index, mark in enumerate(marks):
        tokenizer.add_tokens([AddedToken(mark, special=index % 2 == 0, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def compare_template(source: str, folder: Path) -> dict[str, str]:
    """Returns the outcome of each case of a template."""
    from transformers import AutoTokenizer

    marks = sorted(set(_MARK.findall(source)) - {*SPECIAL.values()})
    save_tokenizer(folder, marks)
    theirs = AutoTokenizer.from_pretrained(folder)
    try:
        chat: Chat | None = load_chat(folder, template=source, bos="template")
    except CodescalerError:
        chat = None
    # The control tokens that the messages hold: a handful, so that a case is short.
    cases = build_conversations([*SPECIAL.values(), *marks[:: max(1, len(marks) // 8)]])
    return {name: _compare_case(chat, theirs, source, messages, mode) for name, messages, mode in cases}


def _compare_case(
    chat: Chat | None, theirs: Any, source: str, messages: list[dict[str, str]], mode: ControlTokenMode
) -> str:
    try:
        expected = theirs.apply_chat_template(
            messages, chat_template=source, return_dict=False, sanitize_control_tokens=mode == "text"
        )
    except Exception as error:  # a template raises whatever Python can
        expected = error
    try:
        if chat is None:
            raise InvalidInput("the template is refused")
        found: Any = chat.encode_conversations([(messages, mode)], ["case"])[0].tolist()
    except CodescalerError as error:
        found = error
    if isinstance(expected, Exception) and isinstance(found, Exception):
        return "both refuse"
    if isinstance(found, InvalidInput) and "no place for a system message" in str(found):
        return "no place for a system prompt"
    if found == expected:
        return "equal"
    if isinstance(found, list) and isinstance(expected, list):
        at = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), "the end")
        return f"unequal: at id {at} of {len(found)} and {len(expected)}"
    return f"unequal: {found!r:.300} and {expected!r:.300}"


def compare_folder(folder: Path) -> dict[str, dict[str, str]]:
    """Returns the outcome of each case of each template below a folder, by its path."""
    outcomes = {}
    for path in sorted(folder.rglob("*.jinja")):
        with tempfile.TemporaryDirectory() as scratch:
            outcomes[str(path.relative_to(folder))] = compare_template(path.read_text(encoding="utf-8"), Path(scratch))
    return outcomes


def count_outcomes(outcomes: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """Returns how many templates have each outcome, by case."""
    cases = list(next(iter(outcomes.values())))
    return {case: dict(Counter(of[case].partition(":")[0] for of in outcomes.values())) for case in cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder of templates (those of the repository alone)")
    parser.add_argument("--save", action="store_true", help="write the counts to benches/results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    outcomes = {f"own/{name}": of for name, of in compare_folder(OWN).items()}
    if options.folder:
        outcomes |= compare_folder(options.folder)
    for name, of in outcomes.items():
        for case, outcome in of.items():
            if outcome.startswith("unequal"):
                print(f"{name}, {case}: {outcome}", file=sys.stderr)
    counts = count_outcomes(outcomes)
    rows = [(case, *(str(of.get(outcome, 0)) for outcome in OUTCOMES)) for case, of in counts.items()]
    print(format_table((f"{len(outcomes)} templates", *OUTCOMES), rows))
    if options.save:
        sources = Counter(name.partition("/")[0].replace("+", "/") for name in outcomes)
        versions = {name: version(name) for name in ("transformers", "tokenizers", "jinja2")}
        record = {"versions": versions, "sources": dict(sorted(sources.items())), "cases": counts}
        RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(of.get("unequal") for of in counts.values()))


if __name__ == "__main__":
    main()
