"""The special tokens that the files beside tokenizer.json name, resolved as transformers resolves them.

tokenizer_config.json may name tokens that tokenizer.json does not know, or knows as plain vocabulary. transformers adds
them when it loads, so that a text holds them as one token. Older folders name them in special_tokens_map.json and
added_tokens.json, which count only if tokenizer_config.json has no added_tokens_decoder. This module knows no ids but
those that the files declare.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codescaler.errors import HostileFile, WeightsError
from codescaler.io.files import find_file
from codescaler.io.json import Fields, read_json

if TYPE_CHECKING:
    from tokenizers import AddedToken

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA, _OLD_EXTRA, _DECODER = "extra_special_tokens", "additional_special_tokens", "added_tokens_decoder"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class SpecialTokens:
    """What the files say.

    Attributes:
        named: tokens by the name that a template knows them by, such as `bos_token`.
        added: tokens to add to the tokenizer, in this order. One that it has already keeps its id.
        declared: file and id of each token for which a file says the id.
        is_split: special tokens in a text are encoded as plain text.
    """

    named: Mapping[str, str]
    added: "Sequence[AddedToken]"
    declared: Mapping[str, tuple[Path, int]]
    is_split: bool


def read_special_tokens(folders: Sequence[Path], home: Path) -> SpecialTokens:
    """Reads the files beside the tokenizer.json of `home`, and the first tokenizer_config.json of `folders`.

    Raises: WeightsError: a file is damaged, or says what is no token.
    """
    files = find_token_files(folders, home)
    path = files.get(CONFIG_FILE)
    config = Fields({} if path is None else read_json(path), str(path))
    values = {key: value for key, value in config.values.items() if value is not None}
    if _OLD_EXTRA in values and not values.get(_EXTRA):
        values[_EXTRA] = values.pop(_OLD_EXTRA)
    declared: dict[str, tuple[Path, int]] = {}
    added: dict[int, AddedToken] = {}
    if path is not None and _DECODER in values:
        decoder = config.read_object(_DECODER)
        for key in decoder.values:
            added[_parse_id(key, decoder)] = _make_token(decoder.read_object(key).values, f"{decoder.where}, {key}")
        declared = {token.content: (path, number) for number, token in added.items()}
    else:
        values |= _read_old_map(files.get(SPECIAL_TOKENS_FILE), values)
        added, declared = _read_added_tokens(
            files.get(ADDED_TOKENS_FILE), {_get_content(values[name]) for name in _NAMES if name in values}
        )
    named = dict(_list_named(values, str(path)))
    known = {token.content: token for token in added.values()}
    named = {name: known.get(token.content, token) for name, token in named.items()}
    extra = values.get(_EXTRA, [])
    if not isinstance(extra, (list, Mapping)):
        raise config.make_error(_EXTRA, "set it to a list of tokens, or to an object of named ones")
    unnamed = [_make_special(value, f"{path}: {_EXTRA}") for value in (extra if isinstance(extra, list) else [])]
    ordered = [token for _, token in sorted(added.items())]
    return SpecialTokens(
        {name: token.content for name, token in named.items()},
        [*ordered, *(token for token in [*named.values(), *unnamed] if token.content not in known)],
        declared,
        config.read_flag("split_special_tokens"),
    )


def find_token_files(folders: Sequence[Path], home: Path) -> dict[str, Path]:
    """Returns the files beside the tokenizer.json of `home` that name tokens, and the first folder's configuration.

    The older files are of the folder whose tokenizer they were saved with: a LoRA adapter's must not meet its base's.
    """
    config = find_file(folders, CONFIG_FILE)
    found = {CONFIG_FILE: config}
    if config is None or config.parent == home:
        found |= {name: find_file([home], name) for name in (SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE)}
    return {name: path for name, path in found.items() if path is not None}


def _list_named(values: Mapping[str, Any], where: str) -> "Iterator[tuple[str, AddedToken]]":
    """Yields the tokens that have a name: the usual ones, those of `extra_special_tokens`, and any other `*_token`."""
    for name in _NAMES:
        if name in values:
            yield name, _make_special(values[name], f"{where}: {name}")
    extra = values.get(_EXTRA)
    for name, value in extra.items() if isinstance(extra, Mapping) else ():
        yield name, _make_special(value, f"{where}: {_EXTRA}, {name}")
    for name, value in values.items():
        if name.endswith("_token") and name not in _NAMES and (isinstance(value, str) or _is_marked(value)):
            yield name, _make_special(value, f"{where}: {name}")


def _read_old_map(path: Path | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what special_tokens_map.json says. It wins over tokenizer_config.json, as in transformers."""
    found = {} if path is None else {key: value for key, value in read_json(path).items() if value is not None}
    if _OLD_EXTRA in found and _EXTRA not in found and not values.get(_EXTRA):
        found[_EXTRA] = found.pop(_OLD_EXTRA)
    extra, before = found.get(_EXTRA), values.get(_EXTRA)
    if isinstance(extra, list) and isinstance(before, list):
        found[_EXTRA] = [*before, *(value for value in extra if value not in before)]
    return found


def _read_added_tokens(
    path: Path | None, special: set[str]
) -> "tuple[dict[int, AddedToken], dict[str, tuple[Path, int]]]":
    """Returns the tokens of added_tokens.json by id, and where each id was said."""
    if path is None:
        return {}, {}
    ids = Fields(read_json(path), str(path))
    numbers = {text: ids.read_size(text, low=0) for text in ids.values}
    tokens = {
        number: _make_token({"content": text, "special": text in special, "normalized": text not in special}, ids.where)
        for text, number in numbers.items()
    }
    return tokens, {text: (path, number) for text, number in numbers.items()}


def _make_special(value: object, where: str) -> "AddedToken":
    """Returns a token that a file names: a string, or an object with a content."""
    if isinstance(value, Mapping):
        return _make_token({**value, "special": True}, where)
    return _make_token({"content": value, "special": True}, where)


def _make_token(values: Mapping[str, Any], where: str) -> "AddedToken":
    from tokenizers import AddedToken

    fields = Fields(values, where)
    content = values.get("content")
    if not isinstance(content, str):
        raise WeightsError(f"{where} is {content!r:.80}; set it to a string, or to an object with a string as content.")
    flags = {flag: fields.read_flag(flag) for flag in _FLAGS if values.get(flag) is not None}
    try:
        return AddedToken(content, **flags)
    except UnicodeEncodeError as error:  # a lone surrogate is no text to tokenizers
        raise HostileFile(f"{where} is {content!r:.80}, no text ({error}); fetch the file again.") from error


def _parse_id(key: str, fields: Fields) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 10):
        raise fields.make_error(key, "name it by the id of a token")
    return int(key)


def _get_content(value: object) -> str:
    return str(value.get("content") if isinstance(value, Mapping) else value)


def _is_marked(value: object) -> bool:
    return isinstance(value, Mapping) and value.get("__type") == "AddedToken"
