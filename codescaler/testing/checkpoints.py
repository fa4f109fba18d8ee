"""Small random checkpoints, written by transformers and PEFT themselves, and ways to damage them.

Both are imported only when a builder is called; the engine never needs them.
"""

import importlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_TINY: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3_moe": (
        "Qwen3Moe",
        {"head_dim": 32, "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 40},
    ),
    "qwen2": ("Qwen2", {}),
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "phi3": ("Phi3", {}),
    "gemma2": ("Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 8}),
    "gemma3_text": ("Gemma3Text", {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 8}),
}
_CAUSAL_NAMES = {"gemma3_text": "Gemma3ForCausalLM"}


def _make_mlp(width: int) -> torch.nn.Sequential:
    hidden = width // 2 + 1
    return torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1))


# Heads that no class of transformers has, on its causal LM: the module's name, and how it is made for a width.
_OTHER_HEADS: dict[str, tuple[str, Callable[[int], torch.nn.Module]]] = {
    "AceCodeRM": ("v_head", lambda width: torch.nn.ModuleDict({"summary": torch.nn.Linear(width, 1)})),
    "RewardModel": ("value_head", lambda width: torch.nn.Linear(width, 1, bias=False)),
    "Qwen2ForRewardModel": ("score", _make_mlp),
    "INFORMForSequenceClassification": ("score", _make_mlp),
    "GRewardModel": ("v_head", lambda width: torch.nn.ModuleDict({"summary": _make_mlp(width)})),
    "AtheneForSequenceClassification": ("v_head", lambda width: torch.nn.Linear(width, 1, bias=False)),
    "EurusRewardModel": ("regression_head", lambda width: torch.nn.Linear(width, 1, bias=False)),
}


def save_random_checkpoint(
    folder: Path,
    family: str,
    architecture: str = "SequenceClassification",
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    max_shard_size: str = "5GB",
    **overrides: Any,
) -> Any:
    """Saves a tiny random model to `folder` and returns its transformers module, in eval mode.

    Norm weights lie around the value that does nothing but away from it, biases are not zero, and the head
    makes scores of about unit scale.

    `family` is a model_type; `architecture` "SequenceClassification", "TokenClassification", "CausalLM", or the class
    name of a reward model with a head of its own: a causal LM whose module has that head too. `overrides` are settings
    of the family's configuration class.
    """
    transformers = importlib.import_module("transformers")
    name, settings = _FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(num_labels=1, **(_TINY | settings | overrides))
    causal = _CAUSAL_NAMES.get(family, f"{name}ForCausalLM")
    is_causal = architecture == "CausalLM" or architecture in _OTHER_HEADS
    model = getattr(transformers, causal if is_causal else f"{name}For{architecture}")(config).eval()
    if architecture in _OTHER_HEADS:
        place, make = _OTHER_HEADS[architecture]
        setattr(model, place, make(config.hidden_size))
    _randomize(model, seed, norm_mean=0.0 if family.startswith("gemma") else 1.0)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    if architecture in _OTHER_HEADS:
        edit_json(folder / "config.json", architectures=[architecture])
    return model


def save_random_lora(folder: Path, base: Path, *, seed: int = 1, vocab_size: int | None = None, **settings: Any) -> Any:
    """Saves a random LoRA adapter of the base model in `base` to `folder` and returns the PEFT module.

    A causal LM as the base gets a new score head, which the adapter then holds. `settings` are those of
    `peft.LoraConfig`; by default the adapter is a sequence classifier on the query and down projections. With
    `vocab_size` the adapter's embedding has so many rows.
    """
    transformers, peft = importlib.import_module("transformers"), importlib.import_module("peft")
    defaults = {"task_type": "SEQ_CLS", "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    config = peft.LoraConfig(**(defaults | settings))
    suffix = {
        "SEQ_CLS": "SequenceClassification",
        "TOKEN_CLS": "TokenClassification",
        "CAUSAL_LM": "CausalLM",
    }
    task = suffix.get(config.task_type, "SequenceClassification")  # no task, or one for features, says nothing
    auto = getattr(transformers, f"AutoModelFor{task}")
    # Read here, not passed on: a causal LM takes no num_labels.
    base_config = transformers.AutoConfig.from_pretrained(base, num_labels=1)
    with warnings.catch_warnings():
        # PEFT 0.21 reads an attribute that transformers 5.23 deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        plain = auto.from_pretrained(base, config=base_config)
        if vocab_size is not None:
            plain.resize_token_embeddings(vocab_size, mean_resizing=False)
        model = peft.get_peft_model(plain, config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                std = 1.0 if "embed" in name else parameter.shape[-1] ** -0.5
                parameter.normal_(0.0, std, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it saves an embedding of another size
        model.save_pretrained(folder)
    return model


def split_value_head(folder: Path) -> None:
    """Moves the tensors of `v_head` into a file of their own, as LLaMA-Factory does."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    heads = {name: tensors.pop(name) for name in list(tensors) if name.startswith("v_head.")}
    save_file(tensors, path)
    save_file(heads, folder / "value_head.safetensors")


def save_as_internlm2(source: Path, folder: Path, reward_token_id: int) -> None:
    """Writes a Llama checkpoint of one file with `v_head.weight` as InternLM2's reward models are stored.

    Source: modeling_internlm2.py, InternLM2Attention: for each kv head its query heads, its key, its value.
    """
    names = {
        "self_attn.o_proj": "attention.wo",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
        "embed_tokens": "tok_embeddings",
        "lm_head": "output",
    }
    config = json.loads((source / "config.json").read_text())
    head_dim, kv_heads = config["head_dim"], config["num_key_value_heads"]
    tensors = load_file(source / "model.safetensors")
    for index in range(config["num_hidden_layers"]):
        at = f"model.layers.{index}."
        parts = [
            tensors.pop(f"{at}self_attn.{part}_proj.weight").unflatten(0, (kv_heads, -1, head_dim)) for part in "qkv"
        ]
        tensors[f"{at}attention.wqkv.weight"] = torch.cat(parts, dim=1).flatten(0, 2)
    for ours, theirs in names.items():
        tensors = {name.replace(f"{ours}.", f"{theirs}."): tensor for name, tensor in tensors.items()}
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    settings = {"architectures": ["InternLM2ForRewardModel"], "model_type": "internlm2", "bias": False}
    settings |= {"reward_token_id": reward_token_id, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    kept = {key: value for key, value in config.items() if key not in ("rope_parameters", "head_dim")}
    rope = {"rope_theta": config["rope_parameters"]["rope_theta"]}
    (folder / "config.json").write_text(json.dumps(kept | settings | rope))


def save_chat(folder: Path) -> None:
    """Saves a tokenizer of single bytes, with 258 ids, and a ChatML template."""
    tokenizers = importlib.import_module("tokenizers")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(
        "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
        "{%- endfor %}"
    )


def edit_json(path: Path, **changes: Any) -> None:
    """Changes top-level keys of a JSON file; None removes one."""
    values = json.loads(path.read_text())
    kept = {key: value for key, value in values.items() if key not in changes}
    path.write_text(json.dumps(kept | {key: value for key, value in changes.items() if value is not None}))


def _randomize(model: torch.nn.Module, seed: int, norm_mean: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(norm_mean, 0.1, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1, generator=generator)
            else:
                # An embedding row is read alone, a linear layer sums over its inputs.
                std = 1.0 if "embed" in name else parameter.shape[-1] ** -0.5
                parameter.normal_(0.0, std, generator=generator)


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Rewrites a safetensors file with what `change` makes of its tensors."""
    # Copies, for the tensors read are views of the file that is about to be written over.
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path)
