"""A smaller model computes what the first layers of the whole one do, and its tokenizer is the first merges."""

import json

import pytest
import tokenizers
import torch

from codescaler.checkpoint.load import open_checkpoint
from codescaler.engine import Engine
from codescaler.errors import InvalidInput, UnsupportedModel
from codescaler.testing import edit_json, save_chat, save_random_checkpoint
from codescaler.text.chat import load_chat
from codescaler.train.pruning import prune, select_first_merges

TEXTS = [
    "def add(a, b):\n    return a + b\n",
    "Zeichen: äöü 漢字 🙂",
    "<|im_start|>user\nadd the numbers<|im_end|>\n",
    "",
]
PAIRS = [("Add two numbers.", text) for text in TEXTS]


def save_merges(folder):
    """A byte-pair tokenizer with merges, learned from a few lines."""
    save_chat(folder)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=letters, special_tokens=["<|im_start|>", "<|im_end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(["def add(a, b): return a + b # adds the numbers that the caller adds"] * 9, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


@pytest.fixture(scope="module", params=["qwen3", "gemma2", "llama"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    size = save_merges(folder)
    save_random_checkpoint(
        folder, request.param, vocab_size=size + 3, pad_token_id=1, eos_token_id=[1, 0], bos_token_id=0
    )
    return folder


def test_a_whole_copy_scores_the_same(model, tmp_path):
    report = prune(model, tmp_path / "copy")
    assert report.num_parameters == report.num_parameters_before
    assert (Engine.from_pretrained(tmp_path / "copy").score(PAIRS) == Engine.from_pretrained(model).score(PAIRS)).all()


def test_fewer_layers_are_the_first_ones(model, tmp_path):
    report = prune(model, tmp_path / "small", num_layers=2)
    assert (report.num_layers, report.num_layers_before) == (2, 3)
    small, whole = open_checkpoint(tmp_path / "small"), open_checkpoint(model)
    assert small.config.num_layers == 2 and small.config.layer_windows == whole.config.layer_windows[:2]
    assert {name for name in whole.sources if "layers.2." not in name} == small.sources.keys()
    assert all(torch.equal(small.read_tensor(name), whole.read_tensor(name)) for name in small.sources)
    assert Engine.from_pretrained(tmp_path / "small").score(PAIRS).shape == (len(PAIRS),)


def test_fewer_tokens_are_the_first_merges_and_keep_their_rows(model, tmp_path):
    size = 270
    assert prune(model, tmp_path / "small", vocab_size=size).vocab_size == size
    small, whole = load_chat(tmp_path / "small").tokenizer, load_chat(model).tokenizer
    assert small.get_vocab_size() == size
    left, right = (open_checkpoint(folder).read_tensor("embed_tokens.weight") for folder in (tmp_path / "small", model))
    assert len(left) == size
    for token, index in small.get_vocab().items():
        assert torch.equal(left[index], right[whole.token_to_id(token)]), token
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert small.id_to_token(config["pad_token_id"]) == whole.id_to_token(1) == "<|im_end|>"
    assert config["vocab_size"] == size
    for text in TEXTS:
        ids = small.encode(text).ids
        assert small.decode(ids, skip_special_tokens=False) == text
        assert len(ids) >= len(whole.encode(text).ids)
    # Where no merge that is left out applies, both see the same tokens, so that scores are the same.
    pair = [("x", "q")]
    assert (Engine.from_pretrained(tmp_path / "small").score(pair) == Engine.from_pretrained(model).score(pair)).all()


def test_ids_of_a_post_processor_follow(model):
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    added = max(tokenizer["model"]["vocab"].values()) + 1
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "content": "<s>", "id": added})
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [added], "tokens": ["<s>"]}},
    }
    small, old_ids = select_first_merges(tokenizer, 265, "tokenizer.json")
    loaded = tokenizers.Tokenizer.from_str(json.dumps(small))
    assert loaded.encode("a").ids[0] == loaded.token_to_id("<s>") == old_ids.index(added) == 264


def test_what_has_no_head_gets_one_of_zeros(tmp_path):
    folder = tmp_path / "lm"
    folder.mkdir()
    save_random_checkpoint(folder, "qwen3", "CausalLM", vocab_size=save_merges(folder), pad_token_id=1)
    prune(folder, tmp_path / "small", num_layers=1, vocab_size=260)
    assert (Engine.from_pretrained(tmp_path / "small").score(PAIRS) == 0.0).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_layers": 4}, "num_layers=4; .* has 3"),
        ({"num_layers": 0}, "num_layers"),
        ({"vocab_size": 257}, "vocab_size=257; .* of which no merge makes 258"),
        ({"vocab_size": 9999}, "vocab_size=9999; .* has .* tokens"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(model, tmp_path, settings, message):
    with pytest.raises(InvalidInput, match=message):
        prune(model, tmp_path / "small", **settings)
    assert not any(tmp_path.iterdir())


def test_another_kind_of_tokenizer_is_refused(model, tmp_path):
    prune(model, tmp_path / "copy")
    edit_json(tmp_path / "copy" / "tokenizer.json", model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"})
    with pytest.raises(UnsupportedModel, match="no byte-pair encoding"):
        prune(tmp_path / "copy", tmp_path / "small", vocab_size=260)
