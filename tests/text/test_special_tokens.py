"""Special tokens that only the files beside tokenizer.json know: the same ids and variables as in transformers."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from codescaler.errors import HostileFile, WeightsError
from codescaler.text.chat import load_chat

CONFIG, OLD_MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
KNOWN = ["<known>", "<word>"]  # the first is special, the second in the vocabulary only
TEXT = "<s>a <known> <word> <new>  <x>ab</x>| <image> <old>\n</s> <strip>  b"


def save(folder, **files):
    """Writes a byte-level tokenizer, and the files beside it by their stems."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate([*letters, *KNOWN])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(KNOWN[:1])
    tokenizer.add_tokens([AddedToken("<x>", special=False, normalized=False)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(
        "{{ messages[0].content }}{{ bos_token }}{{ eos_token }}{{ image_token }}"
    )
    for stem, content in {"tokenizer_config": {}, **files}.items():
        content = {"tokenizer_class": "PreTrainedTokenizerFast"} | content if stem == "tokenizer_config" else content
        (folder / f"{stem}.json").write_text(json.dumps(content))
    return folder


def marked(content, **flags):
    return {"__type": "AddedToken", "content": content, **flags}


CASES = {
    "nothing": {},
    "a name": {"tokenizer_config": {"bos_token": "<s>", "eos_token": "</s>"}},
    "a name of the vocabulary": {"tokenizer_config": {"eos_token": "<word>"}},
    "a name of an added token": {"tokenizer_config": {"eos_token": "<known>"}},
    "a name of a token that is not special": {"tokenizer_config": {"eos_token": "<x>"}},
    "a marked name": {"tokenizer_config": {"bos_token": marked("<strip>", lstrip=True, rstrip=True)}},
    "null": {"tokenizer_config": {"bos_token": None, "extra_special_tokens": None}},
    "another name": {"tokenizer_config": {"image_token": "<image>"}},
    "a list of others": {
        "tokenizer_config": {"extra_special_tokens": ["<new>", "<word>", marked("<strip>", rstrip=True)]}},
    "the old list of others": {"tokenizer_config": {"additional_special_tokens": ["<new>", "<known>"]}},
    "both lists": {"tokenizer_config": {"additional_special_tokens": ["<old>"], "extra_special_tokens": ["<new>"]}},
    "named others": {"tokenizer_config": {"extra_special_tokens": {"image_token": "<image>", "x_token": "</x>"}}},
    "tokens by id": {"tokenizer_config": {"added_tokens_decoder": {
        "259": {"content": "<new>", "special": False, "normalized": True}, "260": {"content": "<old>", "rstrip": True},
    }}},
    "other flags of a known token": {"tokenizer_config": {"added_tokens_decoder": {
        "256": {"content": "<known>", "lstrip": True, "rstrip": True, "special": True}}}},
    "a name with flags by id": {"tokenizer_config": {"eos_token": "<new>", "added_tokens_decoder": {
        "259": {"content": "<new>", "lstrip": True, "special": False}}}},
    "old map": {"special_tokens_map": {"eos_token": "</s>", "bos_token": {"content": "<s>", "lstrip": True}}},
    "old map before the configuration": {
        "tokenizer_config": {"eos_token": "<new>"}, "special_tokens_map": {"eos_token": "<old>"}},
    "old map beside tokens by id": {
        "tokenizer_config": {"added_tokens_decoder": {}, "eos_token": "<new>"},
        "special_tokens_map": {"eos_token": "<old>"}},
    "old map with others": {
        "tokenizer_config": {"extra_special_tokens": ["<new>"]},
        "special_tokens_map": {"extra_special_tokens": ["<old>", "<new>"]}},
    "old map with the old list": {"special_tokens_map": {"additional_special_tokens": ["<old>", "<new>"]}},
    "added tokens": {"added_tokens": {"<new>": 259, "<old>": 260}},
    "added tokens that are special": {"added_tokens": {"<new>": 259}, "tokenizer_config": {"eos_token": "<new>"}},
    "added tokens of the vocabulary": {"added_tokens": {"<word>": 257}},
    "split": {"tokenizer_config": {"split_special_tokens": True, "eos_token": "<new>"}},
}  # fmt: skip


@pytest.mark.parametrize("files", CASES.values(), ids=CASES)
def test_tokens_are_those_of_transformers(tmp_path, files):
    from transformers import AutoTokenizer

    folder = save(tmp_path / "model", **files)
    chat, theirs = load_chat(folder), AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": TEXT}]
    text = theirs.apply_chat_template(messages, tokenize=False)
    assert chat.render(messages) == text
    assert chat.encode([text])[0].tolist() == theirs(text, add_special_tokens=False)["input_ids"]


def by_id(key, **token):
    return {"tokenizer_config": {"added_tokens_decoder": {key: token}}}


def test_the_cases_are_cases(tmp_path):
    """Each file matters: without it the ids are others."""
    (plain,) = load_chat(save(tmp_path / "plain")).encode([TEXT])
    same = []
    for name, files in CASES.items():
        (ids,) = load_chat(save(tmp_path / name, **files)).encode([TEXT])
        if ids.tolist() == plain.tolist():
            same.append(name)
    assert same == ["nothing", "a name of an added token", "a name of a token that is not special", "null"]


@pytest.mark.parametrize(
    "files, kind, said",
    [
        ({"added_tokens": {"<new>": 300}}, WeightsError, r"added token 300 is '<new>', whose id .* 259"),
        ({"added_tokens": {"<new>": "7"}}, WeightsError, r"<new> is '7'; set it to a whole number"),
        ({"added_tokens": {"\ud800": 259}}, HostileFile, "no text"),
        (by_id("x", content="a"), WeightsError, "name it by the id"),
        (by_id("9" * 5000, content="a"), WeightsError, "name it by the id"),
        (by_id("7", content="a", lstrip=1), WeightsError, "lstrip is 1"),
        ({"tokenizer_config": {"extra_special_tokens": "<new>"}}, WeightsError, "extra_special_tokens is '<new>'"),
        ({"tokenizer_config": {"extra_special_tokens": [7]}}, WeightsError, "extra_special_tokens is 7"),
        ({"tokenizer_config": {"extra_special_tokens": {"a": 7}}}, WeightsError, "extra_special_tokens, a is 7"),
        ({"tokenizer_config": {"split_special_tokens": 1}}, WeightsError, "split_special_tokens is 1"),
        ({"special_tokens_map": {"eos_token": 7}}, WeightsError, "eos_token is 7"),
        ({"tokenizer_config": {"extra_special_tokens": ["x" * 2**21]}}, HostileFile, "added tokens take"),
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused(tmp_path, files, kind, said):
    with pytest.raises(kind, match=said):
        load_chat(save(tmp_path / "model", **files))


def test_an_adapter_does_not_take_its_bases_older_files(tmp_path):
    base = save(tmp_path / "base", special_tokens_map={"eos_token": "<old>"}, added_tokens={"<new>": 259})
    assert load_chat(base).special_tokens == {"eos_token": "<old>"}
    adapter = save(tmp_path / "adapter", tokenizer_config={"eos_token": "</s>"})
    assert load_chat(adapter, base).special_tokens == {"eos_token": "</s>"}
    (adapter / "tokenizer.json").unlink()
    chat = load_chat(adapter, base)
    assert chat.special_tokens == {"eos_token": "</s>"} and chat.tokenizer.token_to_id("<new>") is None
