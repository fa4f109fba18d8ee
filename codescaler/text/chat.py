"""`Chat`: a checkpoint's own chat template and tokenizer, from (problem, response) to token ids.

Adds no system prompt and no token of its own. Ids come from `tokenizers`, whose pool of threads lets go of the
interpreter lock while it encodes, so another thread can run the model meanwhile; in a child that was forked after the
pool had started, `tokenizers` encodes on one thread and says so. This module knows no weights and no scores.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codescaler.errors import CodescalerError, InvalidInput, MissingTensor, WeightsError
from codescaler.io.files import find_file, read_text_file
from codescaler.io.json import read_json
from codescaler.text.control_tokens import ControlTokenMode, ControlTokens, Marks
from codescaler.text.program import Message, Turns
from codescaler.text.settings import TEMPLATE_FILE, BosRule
from codescaler.text.special_tokens import CONFIG_FILE, read_special_tokens
from codescaler.text.token_ids import measure_common_prefix
from codescaler.text.tokenizer import TOKENIZER_FILE, explain_tokenizer_errors, find_bos_id, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from codescaler.text.template import ChatTemplate

_MAX_TEMPLATE_BYTES = 2**20
_MAX_PLACED = 1024  # system messages that are remembered as checked


class LastTurn(NamedTuple):
    """A conversation's ids. Those of its last message are [start, end)."""

    ids: npt.NDArray[np.int32]
    start: int
    end: int


class _Rendered(NamedTuple):
    """A conversation's text, the marks in it, and its last message as it was given to the template."""

    text: str
    marks: Marks | None
    last: str


@dataclass(frozen=True)
class Chat:
    """A template and a tokenizer that belong together. Build one with `load_chat`; any thread may call it.

    `special_tokens` are the template's variables (`bos_token`, ...). `bos_id` is the token that each text starts with,
    None if the text is encoded as rendered.
    """

    template: "ChatTemplate" = field(repr=False)
    tokenizer: "Tokenizer" = field(repr=False)
    tokenizer_path: Path
    special_tokens: Mapping[str, str]
    bos_id: int | None
    _placed: set[object] = field(default_factory=set, repr=False, compare=False)  # system messages that were checked

    @cached_property
    def control_tokens(self) -> ControlTokens:
        """Marks control tokens in messages, and encodes what is marked as text."""
        return ControlTokens(self.tokenizer, self.template.literals)

    @cached_property
    def answer_start(self) -> npt.NDArray[np.int32]:
        """The tokens that the template writes between a problem and its answer; none where that cannot be told."""
        roles = ("user", "assistant")
        try:
            text, *others = (
                self.render([{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)])
                for contents in (("0", "0"), ("1", "0"), ("0", "1"))
            )
        except CodescalerError:  # a template may refuse these messages
            return np.empty(0, np.int32)
        problem, answer = (
            next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), len(text))
            for other in others
        )
        # A tokenizer may join white space with what an answer begins with.
        between = text[problem + 1 : answer].rstrip()
        return np.array(self.tokenizer.encode(between, add_special_tokens=False).ids, np.int32)

    def render(self, messages: Sequence[Message]) -> str:
        """Returns the template's text for a conversation, without a prompt for a further turn.

        Raises:
            InvalidInput: the messages are not well formed, the template refuses them, or it has no place for a system
                message that they hold.
            WeightsError: the template fails, or takes more than a template needs.
        """
        messages = make_messages(messages, "messages")
        places = [index for index, message in enumerate(messages) if message["role"] == "system"]
        try:
            text = self.template.render(messages, self.special_tokens)
        except InvalidInput as error:
            if not places:
                raise
            raise InvalidInput(
                f"{error}. There is a system message among them: leave it out if the template has no place for one"
            ) from error
        for place in places:
            self._require_place(messages, place, text)
        return text

    def _require_place(self, messages: Sequence[Message], place: int, text: str) -> None:
        """Refuses a system message that the template leaves out: another text would render to the same."""
        key = place, messages[place]["content"], tuple(message["role"] for message in messages)
        if key in self._placed:
            return
        other = {"role": "system", "content": f"{messages[place]['content']}x"}
        if self.template.render([*messages[:place], other, *messages[place + 1 :]], self.special_tokens) == text:
            raise InvalidInput(
                f"{self.template.where} has no place for a system message, whose text is not in what it renders; leave "
                "the system prompt out, or use the template that the reward model was trained with"
            )
        if len(self._placed) >= _MAX_PLACED:
            self._placed.clear()
        self._placed.add(key)

    def encode_conversations(
        self,
        conversations: Iterable[tuple[Sequence[Message], ControlTokenMode]],
        names: Sequence[str],
        close: Callable[[str], str] | None = None,
    ) -> list[npt.NDArray[np.int32]]:
        """Renders messages and returns their token ids, control tokens in messages as each conversation says.

        `close` changes the end of a rendered text.

        Raises: as `render` and `encode`. WeightsError: a control token cannot be text to this tokenizer.
        """
        rendered = [self._render_marked(messages, mode, close) for messages, mode in conversations]
        return self._encode_marked([(each.text, each.marks) for each in rendered], names)

    def encode_last_turns(
        self, conversations: Iterable[tuple[Sequence[Message], ControlTokenMode]], names: Sequence[str]
    ) -> list[LastTurn]:
        """Returns the ids of `encode_conversations`, and which of them are tokens of the last message.

        Raises: as `encode_conversations`. WeightsError: the template does not write the last message as it is.
        """
        rendered = [self._render_marked(messages, mode) for messages, mode in conversations]
        bounds = [self._find_last(each, name) for each, name in zip(rendered, names, strict=True)]
        # Siblings have one beginning. What a tokenizer makes of a text may differ only where the text was cut.
        parts = {
            (each.text[:at], each.marks): name
            for each, name, ats in zip(rendered, names, bounds, strict=True)
            for at in (len(each.text), *ats)
        }
        encoded = dict(zip(parts, self._encode_marked([*parts], [*parts.values()]), strict=True))
        turns = []
        for each, (start, end) in zip(rendered, bounds, strict=True):
            ids, before, through = (encoded[each.text[:at], each.marks] for at in (len(each.text), start, end))
            last = measure_common_prefix(ids, through)
            turns.append(LastTurn(ids, measure_common_prefix(ids, before), last + (last < len(through))))
        return turns

    def _find_last(self, rendered: _Rendered, name: str) -> tuple[int, int]:
        """Returns where the last message stands in the text. Some templates take white space around it away."""
        for content in (rendered.last, rendered.last.strip()):
            at = rendered.text.rfind(content)
            if at >= 0:
                return at, at + len(content)
        raise WeightsError(
            f"{self.template.where} does not write the last message of {name} as it is, so that its tokens cannot be "
            "told from others; use another chat template"
        )

    def _render_marked(
        self, messages: Sequence[Message], mode: ControlTokenMode, close: Callable[[str], str] | None = None
    ) -> _Rendered:
        marks = None
        if mode == "text":
            messages, marks = self.control_tokens.put_marks(messages)
        text = self.render(messages)
        return _Rendered(text if close is None else close(text), marks, messages[-1]["content"])

    def _encode_marked(
        self, texts: Sequence[tuple[str, Marks | None]], names: Sequence[str]
    ) -> list[npt.NDArray[np.int32]]:
        """Returns the ids of rendered texts, what is marked as text."""
        plain = [index for index, (_, marks) in enumerate(texts) if marks is None]
        arrays = self.encode([texts[index][0] for index in plain], [names[index] for index in plain])
        of_place = dict(zip(plain, arrays, strict=True))
        for index, (text, marks) in enumerate(texts):
            if marks is not None:
                _require_unicode(text, names[index])
                with explain_tokenizer_errors(self.tokenizer_path):
                    ids = np.array(self.control_tokens.encode(text, marks), dtype=np.int32)
                of_place[index] = self._add_bos(ids)
        return [of_place[index] for index in range(len(texts))]

    def encode(self, texts: Sequence[str], names: Sequence[str] | None = None) -> list[npt.NDArray[np.int32]]:
        """Returns the token ids of rendered texts. `names` are what errors call the texts, e.g. "pairs[3]".

        The ids are those of the text as rendered; but if there is a `bos_id`, then they start with exactly one, whether
        or not the template wrote it. (A second BOS moves scores by about 1%.)

        Raises:
            InvalidInput: a text is no string or holds a lone surrogate. HostileFile: the tokenizer fails.
        """
        if isinstance(texts, (str, bytes)):
            raise InvalidInput(f"texts is {_describe_value(texts)}; give a list of texts")
        names = [f"texts[{index}]" for index in range(len(texts))] if names is None else names
        for name, text in zip(names, texts, strict=True):
            _require_unicode(text, name)
        with explain_tokenizer_errors(self.tokenizer_path):
            encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            arrays = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]  # an id may take 32 bits
        return [self._add_bos(ids) for ids in arrays]

    def _add_bos(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        if self.bos_id is None:
            return ids
        is_bos = ids == self.bos_id
        start = len(ids) if is_bos.all() else int(is_bos.argmin())
        return np.concatenate([np.array([self.bos_id], dtype=np.int32), ids[start:]])


def make_messages(pair: Turns, where: str = "pair") -> list[dict[str, str]]:
    """Returns the messages of a (problem, response) pair, or a list of messages after a check.

    `where` names the pair in messages of errors, e.g. "pairs[3]".

    Raises:
        InvalidInput: it is neither two strings nor messages that hold a role and a content, both strings.
    """
    if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence):
        raise InvalidInput(f"{where} is {_describe_value(pair)}; give (problem, response) or a list of messages")
    if len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str):
        return [
            {"role": "user", "content": _copy_plain(pair[0])},
            {"role": "assistant", "content": _copy_plain(pair[1])},
        ]
    if not pair:
        raise InvalidInput(f"{where} holds no message; give (problem, response) or a list of messages")
    return [_check_message(message, f"{where}: message {index}") for index, message in enumerate(pair)]


def load_chat(
    folder: Path, base_folder: Path | None = None, *, template: str | None = None, bos: BosRule = "tokenizer"
) -> Chat:
    """Loads tokenizer, chat template and special tokens of a checkpoint folder.

    What `folder`, a LoRA adapter's, does not hold is taken from `base_folder`, each of the three on its own. `template`
    stands in place of the folder's own. `bos` "tokenizer" starts each text with one BOS if the tokenizer's
    post-processor puts one; "template" leaves that to the template, as transformers' `apply_chat_template` does.

    Raises:
        WeightsError: a file is absent (MissingTensor) or damaged (HostileFile).
    """
    from codescaler.text.template import ChatTemplate

    folders = [folder] if base_folder is None else [folder, base_folder]
    source, where = read_template(folders) if template is None else (template, "the given chat template")
    compiled = ChatTemplate(source, where)
    path = find_file(folders, TOKENIZER_FILE)
    if path is None:
        raise MissingTensor(
            f"{' and '.join(map(str, folders))} without {TOKENIZER_FILE}: add it (in transformers, save_pretrained of "
            "a fast tokenizer), or give token ids to score_tokens."
        )
    special = read_special_tokens(folders, path.parent)
    tokenizer = load_tokenizer(path, special)
    bos_id = find_bos_id(tokenizer, path) if bos == "tokenizer" else None
    return Chat(compiled, tokenizer, path, special.named, bos_id)


def read_template(folders: Sequence[Path]) -> tuple[str, str]:
    """Returns the template's text and the name of its place. A file of its own wins, as in transformers."""
    for folder in folders:
        path = find_file([folder], TEMPLATE_FILE)
        if path is not None:
            return read_text_file(path, _MAX_TEMPLATE_BYTES), str(path)
        path = find_file([folder], CONFIG_FILE)
        stored = None if path is None else read_json(path).get("chat_template")
        if path is not None and stored is not None:
            return _choose_default_template(stored, path), f"{path}: chat_template"
    raise MissingTensor(
        f"{' and '.join(map(str, folders))} without {TEMPLATE_FILE}, and without chat_template in {CONFIG_FILE}: "
        "add the template that the reward model was trained with, or give token ids to score_tokens."
    )


def _choose_default_template(stored: object, path: Path) -> str:
    """Returns the template itself, or the one named "default" of a list of several."""
    if isinstance(stored, list):
        named = [entry for entry in stored if isinstance(entry, Mapping) and entry.get("name") == "default"]
        stored = named[0].get("template") if named else None
    if not isinstance(stored, str):
        raise WeightsError(f"{path}: chat_template is neither a string nor a list that names a 'default'; fix it.")
    return stored


def _check_message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise InvalidInput(f"{where} is {_describe_value(message)}; give an object with role and content")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise InvalidInput(f"{where}: {key} is {_describe_value(message.get(key))}; give a string")
    # Data sets fill in fields that a message does not have, such as "tool_calls": null.
    unknown = next(
        (key for key, value in message.items() if key not in ("role", "content") and value is not None), None
    )
    if unknown is not None:
        raise InvalidInput(f"{where} has {_describe_value(unknown)}; a message to score has role and content only")
    return {"role": _copy_plain(message["role"]), "content": _copy_plain(message["content"])}


def _copy_plain(text: str) -> str:
    """Returns a string without the methods of its subclass, which an untrusted template could call."""
    return str.__str__(text)


def _describe_value(value: object) -> str:
    return f"{value!r:.80}" if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"


def _require_unicode(text: object, where: str) -> None:
    if not isinstance(text, str):
        raise InvalidInput(f"{where} is {_describe_value(text)}; give a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{where} has a lone surrogate, {text[error.start]!r}, at {error.start}, which no token stands for; "
            "replace it, e.g. by text.encode(errors='replace').decode()"
        ) from error
