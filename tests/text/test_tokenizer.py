"""A hostile tokenizer gives the same ids each time, in bounded time and memory, or an error that says why not."""

import json
import time

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from codescaler.errors import HostileFile
from codescaler.text.special_tokens import SpecialTokens
from codescaler.text.tokenizer import explain_tokenizer_errors, find_bos_id, load_tokenizer

NOTHING = SpecialTokens({}, [], {}, False)
LETTERS = {"<s>": 0, "a": 1, "b": 2, "aa": 3, "aaaa": 4}


def save(path, model=None, **parts):
    tokenizer = Tokenizer(model or models.BPE(LETTERS, [("a", "a"), ("aa", "aa")]))
    tokenizer.add_special_tokens(["<s>"])
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.save(str(path))
    return path


@pytest.fixture
def path(tmp_path):
    return save(tmp_path / "tokenizer.json")


def edit(path, change):
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))
    return path


def test_dropout_of_training_is_set_aside(path):
    text = "a" * 999 + "b"
    expected = load_tokenizer(path, NOTHING).encode(text).ids
    edit(path, lambda stored: stored["model"].update(dropout=0.5))
    assert len({len(Tokenizer.from_file(str(path)).encode(text).ids) for _ in range(9)}) > 1, "the case is a case"
    tokenizer = load_tokenizer(path, NOTHING)
    assert all(tokenizer.encode(text).ids == expected for _ in range(9))


def put(template, num_special=1):
    special = {"id": "<s>", "ids": [0] * num_special, "tokens": ["<s>"] * num_special}
    return processors.TemplateProcessing(template.strip(), special_tokens=[special])


AROUND = {
    "nothing": (None, None),
    "a BOS": (put("<s> $A"), None),
    "both ends": (put("<s> $A <s>"), None),
    "64 ids": (processors.Sequence([put("<s> " * 62 + "$A")]), None),
    "twice the text": (put("<s> $A $A"), "holds the text 2 times; it must do so once"),
    "no text": (put("<s>"), "holds the text 0 times"),
    "20,000 times the text": (put("$A " * 20000), "holds the text 20000 times"),
    "twice in a sequence": (processors.Sequence([put("$A"), put("$A $A")]), "holds the text 2 times"),
    "63 ids": (put("<s> " * 63 + "$A"), "adds 65 ids, above the limit of 64"),
    "many ids for one": (put("<s> $A", 10**5), "adds 100002 ids"),
    "many steps": (processors.Sequence([processors.ByteLevel()] * 33), "adds 66 ids"),
}


@pytest.mark.parametrize("part, said", AROUND.values(), ids=AROUND)
def test_a_post_processor_only_puts_a_few_ids_around_the_text(tmp_path, part, said):
    path = save(tmp_path / "tokenizer.json", **({} if part is None else {"post_processor": part}))
    if said is None:
        tokenizer = load_tokenizer(path, NOTHING)
        assert tokenizer.encode("ab", add_special_tokens=False).ids == [1, 2]
        assert find_bos_id(tokenizer, path) == (None if part is None else 0)
    else:
        with pytest.raises(HostileFile, match=said):
            load_tokenizer(path, NOTHING)


FLOODS = {
    "bytes of bytes": {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()] * 4)},
    "NFKC and bytes": {
        "normalizer": normalizers.NFKC(),
        "pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()] * 2),
    },
}


@pytest.mark.parametrize("parts", FLOODS.values(), ids=FLOODS)
def test_steps_that_flood_together_are_refused(tmp_path, parts):
    with pytest.raises(HostileFile, match=r"could make \d+ characters of one, above the limit of 256; fix it"):
        load_tokenizer(save(tmp_path / "tokenizer.json", **parts), NOTHING)


def test_too_many_steps_are_refused(tmp_path):
    steps = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()] * 65)
    with pytest.raises(HostileFile, match="has 65 normalizers and pre-tokenizers, above the limit of 64"):
        load_tokenizer(save(tmp_path / "tokenizer.json", pre_tokenizer=steps), NOTHING)


def unigram(length):
    return models.Unigram([("<unk>", 0.0), *(("a" * n, -float(n)) for n in range(1, length + 1))], 0)


def wordpiece(length):
    return models.WordPiece({"[UNK]": 0, "a": 1, "##a": 2}, unk_token="[UNK]", max_input_chars_per_word=length)


@pytest.mark.parametrize("model, limit", [(unigram, 64), (wordpiece, 200)])
def test_a_model_that_looks_far_at_every_character_is_refused(tmp_path, model, limit):
    tokenizer = load_tokenizer(save(tmp_path / "tokenizer.json", model(limit)), NOTHING)
    started = time.process_time()
    tokenizer.encode("a" * 200_000)
    assert time.process_time() - started < 10, "1 s on a quiet machine"
    with pytest.raises(HostileFile, match=f"looks for pieces of {limit + 1} characters, above the limit of {limit}"):
        load_tokenizer(save(tmp_path / "tokenizer.json", model(limit + 1)), NOTHING)


@pytest.mark.parametrize("num, length", [(1, 5 * 10**6), (2000, 600)])
def test_great_added_tokens_are_refused_before_tokenizers_sees_them(path, num, length):
    """Tokenizers would make an automaton of them, which takes all memory."""
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": n, "content": f"{n}".ljust(length, "x"), **token} for n in range(5, 5 + num)]
    edit(path, lambda stored: stored["added_tokens"].extend(added))
    with pytest.raises(HostileFile, match=r"the added tokens take \d+ characters, above the limit of 1048576"):
        load_tokenizer(path, NOTHING)


@pytest.mark.parametrize("added", [7, [7], [{"content": 7}], [{}], {"content": "x"}])
def test_added_tokens_that_are_none_are_refused(path, added):
    edit(path, lambda stored: stored.update(added_tokens=added))
    with pytest.raises(HostileFile, match="is not a usable tokenizer"):
        load_tokenizer(path, NOTHING)


def test_a_pattern_without_end_is_refused_soon(tmp_path):
    """The library gives up after ten million steps; it says so in an error of ours."""
    path = save(tmp_path / "tokenizer.json", pre_tokenizer=pre_tokenizers.Split(Regex("(a+)+b"), "isolated"))
    tokenizer = load_tokenizer(path, NOTHING)
    with pytest.raises(HostileFile, match="retry-limit"), explain_tokenizer_errors(path):
        tokenizer.encode("a" * 1000)


def test_what_a_file_says_reaches_no_terminal(path):
    """Neither the error, nor the errors before it that a traceback shows."""
    edit(path, lambda stored: stored["model"].update(type="\x1b[2J"))
    with pytest.raises(HostileFile) as refusal:
        load_tokenizer(path, NOTHING)
    assert "\x1b" not in str(refusal.value) and refusal.value.__suppress_context__
