"""What several commands share: the options of an engine, and reading a file of text."""

import argparse
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, get_args

from codescaler.errors import InvalidInput, make_printable
from codescaler.text.program import normalize_program
from codescaler.types import ExtractorName, ScorerName

if TYPE_CHECKING:
    from codescaler.engine import Engine
    from codescaler.types import Task

_NUM_REASONS = 5  # of records that are left out, which are shown


class Add(Protocol):
    """Adds a command to the command line: its name, what runs it, one line of what it does."""

    def __call__(self, name: str, run: "Run", summary: str) -> argparse.ArgumentParser: ...


class Run(Protocol):
    """Runs a command."""

    def __call__(self, options: argparse.Namespace) -> None: ...


ENGINE_OPTIONS: dict[str, dict[str, Any]] = {
    "device": {"default": "auto", "help": "auto, cpu, cuda, ... (%(default)s)"},
    "dtype": {"default": "auto", "help": "auto, float32, bfloat16 (%(default)s)"},
    "quantization": {"help": "int8, fp8: quantise the linear layers now (as the folder has them)"},
    "backend": {"default": "auto", "help": "auto, cpu, triton, reference (%(default)s)"},
    "deterministic": {"action": "store_true", "help": "the same bits in any batch on a GPU too, as on a CPU"},
    "num_threads": {"type": int, "help": "CPU threads (torch's setting)"},
    "prefix_memory_bytes": {"type": int, "help": "memory for prefixes that later calls may share (256 MB on CPUs)"},
    "max_batch_tokens": {"type": int, "help": "distinct tokens of one forward (8192)"},
    "pooling": {"default": "hf", "help": "hf (the token that transformers scores) or last (%(default)s)"},
    "truncation": {"default": "error", "help": "of what is too long: error, left, middle (%(default)s)"},
    "max_length": {"type": int, "help": "tokens of the longest sequence (the model's positions)"},
    "system": {"type": Path, "metavar": "FILE", "help": "system prompt of what has none (the model's, if it has one)"},
    "control_tokens": {
        "choices": ("text", "tokens"),
        "help": "what control tokens in messages are (text in programs that are compared, tokens in rows)",
    },
    "chat_template": {"type": Path, "metavar": "FILE", "help": "chat template in place of the model's own"},
    "bos": {
        "choices": ("tokenizer", "template"),
        "default": "tokenizer",
        "help": "who begins a text with a BOS: tokenizer (exactly one, if it puts one) or template (%(default)s)",
    },
    "scorer": {
        "choices": get_args(ScorerName),
        "default": "reward",
        "help": "what scores are: the reward head's, or log-likelihoods of a causal language model (%(default)s)",
    },
    "classifier_from_token": {
        "nargs": "+",
        "metavar": "TOKEN",
        "help": "score a language model's logit of a token, or of the second token minus the first: no yes",
    },
    "base_model": {"help": "base of a LoRA folder (what the folder names)"},
    "revision": {"help": "branch, tag or commit on the hub"},
    "local_files_only": {"action": "store_true", "help": "never ask the hub"},
}
# Without what ranks by likelihoods: token ids that clients send, and the empty program of `explain`, have none.
HEAD_OPTIONS = tuple(name for name in ENGINE_OPTIONS if name != "scorer")


class ModelName(NamedTuple):
    """A model of the command line: what to load, and the scorer that it is to have."""

    folder: str
    scorer: ScorerName


def parse_models(
    arguments: Sequence[str], scorer: ScorerName = "reward", taken: Collection[str] = ()
) -> dict[str, ModelName]:
    """Models by name, of [NAME=]MODEL[:SCORER].

    The name is what stands before the "=", or the last part of the folder, with the scorer if it is given. `scorer` is
    that of models that name none.

    Raises: InvalidInput if a name is empty or taken.
    """
    named: dict[str, ModelName] = {}
    for argument in arguments:
        given, equals, rest = argument.partition("=")
        if not equals or Path(argument).exists():
            given, rest = "", argument
        folder, _, word = rest.rpartition(":")
        if word not in get_args(ScorerName) or Path(rest).exists():
            folder, word = rest, ""
        name = given if rest != argument else ":".join(filter(None, (Path(folder).absolute().name, word)))
        if not name or not folder or name in named or name in taken:
            raise InvalidInput(f"--rm {argument}: the name {name!r} is taken or empty; give another, --rm NAME=FOLDER")
        named[name] = ModelName(folder, cast(ScorerName, word or scorer))
    return named


def add_model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="MODEL", help="reward model, folder or hub id (nano, in the package)")


def add_extract_option(parser: argparse.ArgumentParser, *, is_optional: bool = False) -> None:
    """Adds how programs are taken out of completions; without the option of `is_optional`, they are programs."""
    parser.add_argument(
        "--extract",
        choices=get_args(ExtractorName),
        default=False if is_optional else "paper",
        help="program of a completion: paper (the one block, if it parses), last (block), markdown (by CommonMark)",
    )


def add_engine_options(parser: argparse.ArgumentParser, names: Iterable[str] = tuple(ENGINE_OPTIONS)) -> None:
    group = parser.add_argument_group("engine")
    for name in names:
        group.add_argument(f"--{name.replace('_', '-')}", **ENGINE_OPTIONS[name])


def collect_options(options: argparse.Namespace, names: Iterable[str] = tuple(ENGINE_OPTIONS)) -> dict[str, Any]:
    """Returns the options of these names as keyword arguments. System prompt and template are read from their files."""
    values = {name: getattr(options, name) for name in names}
    if values.get("system") is not None:
        values["system"] = normalize_program(read_text(values["system"]))  # an editor ends its file with a newline
    if values.get("chat_template") is not None:
        values["chat_template"] = read_text(values["chat_template"])
    return values


def open_engine(options: argparse.Namespace, model: ModelName | None = None) -> "Engine":
    """Loads `model`, by default the one of --model."""
    from codescaler.engine import Engine

    settings = collect_options(options)
    if model is None:
        return Engine.from_pretrained(options.model, **settings)
    return Engine.from_pretrained(model.folder, **settings | {"scorer": model.scorer})


def read_problem(path: Path) -> str:
    """The text of a problem without what an editor ends its file with, as the page reads it."""
    problem = read_text(path).rstrip()
    if not problem:
        raise InvalidInput(f"{path} is empty; write the problem there")
    return problem


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read ({error}); give a file of UTF-8 text") from error


def load_tasks(path: Path, format: str = "auto") -> "list[Task]":
    """Returns the problems of a file, and says how many records are left out, and why."""
    from codescaler.tasks import read_tasks

    left_out: list[InvalidInput] = []
    tasks = read_tasks(path, format, left_out=left_out)
    for error in left_out[:_NUM_REASONS]:
        print(make_printable(f"left out: {error}"), file=sys.stderr)
    if left_out:
        print(f"{path}: {len(tasks)} problems; {len(left_out)} records are left out", file=sys.stderr)
    return tasks
