"""A checkpoint's tokenizer, loaded with distrust: the same ids each time, in bounded time and memory.

`tokenizers` takes the process down where it runs out of memory, and runs as long as a file asks. So what could make it
do so is bounded before a text is encoded: the file, its added tokens, the characters that one character may become, the
ids that are put around a text, and the steps a character takes. This module knows no chat template.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codescaler.errors import CodescalerError, HostileFile, WeightsError
from codescaler.io.files import read_text_file
from codescaler.text.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
_MAX_BYTES = 64 * 2**20  # twice Gemma 3's, the largest in use
_MAX_ADDED_CHARS = 2**20  # of all added tokens, which become one automaton: 180 MB and 2 s. Gemma 3 has 60,000
_MAX_GROWTH = 256  # characters that one may become; NFKC makes 18, and bytes as characters 4 of each
_MAX_COMPONENTS = 64  # each is a pass over the text
_MAX_IDS_AROUND = 64  # that a post-processor puts before and after a text
_MAX_PIECE_CHARS = 64  # of Unigram, which tries every length at every character: 0.7 s for 200,000. In use: 16
_MAX_WORD_CHARS = 200  # of WordPiece, which tries every length at every piece. In use: 100
_GROWTH = {"NFC": 3.0, "NFD": 4.0, "NFKC": 18.0, "NFKD": 18.0, "Lowercase": 3.0, "BertNormalizer": 3.0}
_GROWTH |= {"Metaspace": 2.0, "Precompiled": math.inf}  # a binary table from characters to texts of any length


def load_tokenizer(path: Path, special: SpecialTokens) -> "Tokenizer":
    """Loads tokenizer.json, with the special tokens of the files beside it.

    What was saved of somebody's training run is set aside: truncation and padding, which the engine does itself, and
    dropout, which would give a text other ids each time.

    Raises:
        HostileFile: it is damaged, or could take all time or memory. WeightsError: a token's id is not as declared.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    text = read_text_file(path, _MAX_BYTES)
    with explain_tokenizer_errors(path):
        stored = json.loads(text).get("added_tokens") or []
        _check_added_tokens([token["content"] for token in stored], special, path)
        # Not from_file: where it quotes bytes that are no UTF-8 in its error, tokenizers aborts the process.
        tokenizer = Tokenizer.from_str(text)
        _check_text_growth(tokenizer, path)
        _check_ids_around(tokenizer, path)
        _check_search(tokenizer, path)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if isinstance(tokenizer.model, BPE):
            tokenizer.model.dropout = None
        tokenizer.add_tokens(list(special.added))
        tokenizer.encode_special_tokens = special.is_split
    _check_declared_ids(tokenizer, path, special)
    return tokenizer


def find_bos_id(tokenizer: "Tokenizer", path: Path) -> int | None:
    """Returns the id that the post-processor puts first, None if it puts none."""
    with explain_tokenizer_errors(path):
        probe = tokenizer.encode("a")
        return int(np.int32(probe.ids[0])) if probe.special_tokens_mask[:1] == [1] else None


@contextmanager
def explain_tokenizer_errors(path: Path) -> Iterator[None]:
    """Turns what tokenizers raises for a damaged file into an error of ours."""
    try:
        yield
    except CodescalerError:
        raise
    except BaseException as error:
        # A panic in Rust derives from BaseException, and from nothing that tokenizers exports.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        # Not chained: a traceback would show what the file says as it stands.
        raise HostileFile(f"{path} is not a usable tokenizer ({str(error)[:200]}); fetch the file again.") from None


def _check_added_tokens(stored: Sequence[str], special: SpecialTokens, path: Path) -> None:
    num_chars = sum(map(len, stored)) + sum(len(token.content) for token in special.added)
    if num_chars > _MAX_ADDED_CHARS:
        raise HostileFile(
            f"{path}: the added tokens take {num_chars} characters, above the limit of {_MAX_ADDED_CHARS}; keep fewer."
        )


def _check_text_growth(tokenizer: "Tokenizer", path: Path) -> None:
    """Refuses a file that could make a terabyte of a text: forty steps that each double it do."""
    steps = [
        step
        for component, name in ((tokenizer.normalizer, "normalizers"), (tokenizer.pre_tokenizer, "pretokenizers"))
        for step in _list_steps(component, name)
    ]
    if len(steps) > _MAX_COMPONENTS:
        raise HostileFile(
            f"{path} has {len(steps)} normalizers and pre-tokenizers, above the limit of {_MAX_COMPONENTS}."
        )
    growth = math.prod(map(_bound_growth, steps), start=1.0)
    if growth > _MAX_GROWTH:
        raise HostileFile(
            f"{path}: the normalizer and the pre-tokenizer could make {growth:g} characters of one, above the limit of "
            f"{_MAX_GROWTH}; fix it, or give token ids to score_tokens."
        )


def _list_steps(component: Any, name: str) -> list[Mapping[str, Any]]:
    """Returns the steps that a normalizer, pre-tokenizer or post-processor takes, in order, sequences taken apart."""
    if component is None:
        return []
    waiting, steps = [json.loads(component.__getstate__())], []
    while waiting:
        step = waiting.pop()
        if step["type"] == "Sequence":
            waiting.extend(reversed(step[name]))
        else:
            steps.append(step)
    return steps


def _bound_growth(step: Mapping[str, Any]) -> float:
    """Returns a bound on the characters that a step makes of one."""
    kind = step["type"]
    if kind == "Replace":
        replaced = step["pattern"].get("String")  # a regular expression may match between any two characters
        return max(1.0, len(step["content"]) / len(replaced)) if replaced else 1.0 + len(step["content"])
    if kind == "Prepend":
        return 1.0 + len(step["prepend"])
    if kind == "ByteLevel":
        return 5.0 if step.get("add_prefix_space") else 4.0
    return _GROWTH.get(kind, 1.0)


def _check_ids_around(tokenizer: "Tokenizer", path: Path) -> None:
    """Refuses a post-processor that does more than put a few ids around the text."""
    num_ids = 0
    for step in _list_steps(tokenizer.post_processor, "processors"):
        num_ids += 2  # at least what BERT's and RoBERTa's add; and a step takes time
        if step["type"] == "TemplateProcessing":
            pieces = step["single"]
            names = [piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece]
            texts = [piece["Sequence"]["id"] for piece in pieces if "Sequence" in piece]
            if texts != ["A"]:
                raise HostileFile(
                    f"{path}: the post-processor's template holds the text {len(texts)} times; it must do so once."
                )
            num_ids += sum(len(step["special_tokens"][name]["ids"]) for name in names)
    if num_ids > _MAX_IDS_AROUND:
        raise HostileFile(f"{path}: the post-processor adds {num_ids} ids, above the limit of {_MAX_IDS_AROUND}.")


def _check_search(tokenizer: "Tokenizer", path: Path) -> None:
    """Refuses a model that looks for pieces of any length at every character."""
    from tokenizers.models import Unigram, WordPiece

    model, length, limit = tokenizer.model, 0, 0
    if isinstance(model, Unigram):
        length, limit = max(map(len, tokenizer.get_vocab(with_added_tokens=False)), default=0), _MAX_PIECE_CHARS
    elif isinstance(model, WordPiece):
        length, limit = model.max_input_chars_per_word, _MAX_WORD_CHARS
    if length > limit:
        raise HostileFile(f"{path}: the model looks for pieces of {length} characters, above the limit of {limit}.")


def _check_declared_ids(tokenizer: "Tokenizer", path: Path, special: SpecialTokens) -> None:
    for text, (where, declared) in special.declared.items():
        found = tokenizer.token_to_id(text)
        if found != declared:
            raise WeightsError(
                f"{where}: added token {declared} is {text[:80]!r}, whose id in {path} is {found}; "
                "save both again from one tokenizer."
            )
