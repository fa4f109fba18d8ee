"""Fuzzes the way from a checkpoint folder to scores: `python tests/fuzz/fuzz_loader.py --minutes 60 --seed 1`.

Each case is a copy of a tiny checkpoint with one to three mutations, loaded, scored and ranked. A child process does
the work within a limit of memory, so that a crash, a hang or a flood is seen and counted, with what makes it again.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from pathlib import Path

HANG_SECONDS = 30  # of CPU time, so that a busy machine raises no alarm
WAIT_SECONDS = 600  # for one that waits and does nothing
MEMORY_BYTES = 2 * 2**30  # address space that the child may take beyond what it has after its first scores
SIZES = {"vocab_size": 300, "pad_token_id": 299, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
PROBLEM, PROGRAMS = "Add two numbers.", ["def add(a, b):\n    return a + b", "print('é🦀')"]

NUMBERS = [0, -1, 1, 2, 3, 7, 64, 2**31 - 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-300, 1e38, 1e300, math.nan, math.inf]
TEXTS = ["", "a", "3", "\0", "\ud800", "é" * 300, "a" * 10**5, "../x", "/", "..", "~\0", "none", "bfloat16"]
TEXTS += ["llama3", "linear", "yarn", "Qwen3ForSequenceClassification", "Gemma2ForTokenClassification", "AceCodeRM"]
TEXTS += ["RewardModel", "INFORMForSequenceClassification", "phi3", "internlm2", "gemma3_text", "longrope", "dynamic"]
TEXTS += ["LlamaForCausalLM", "gemma2", "qwen3", "a{99999999999}", "(a|b)*c", ".*proj", "[", "(?i)a", "<|im_end|>"]
TEXTS += ["x.safetensors", "../x.safetensors", "/x.safetensors", "\ud800.safetensors", "é" * 300 + ".safetensors"]
ROPE = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
OTHERS = [None, True, False, [], {}, [1], {"a": 1}, [[]], ["full_attention"] * 2, ROPE, {"a": ROPE}]
KEYS = "head_dim rope_theta rope_scaling rope_parameters layer_types sliding_window use_sliding_window text_config"
KEYS += " attention_bias mlp_bias torch_dtype rms_norm_eps quantization_config attn_logit_softcapping rank_pattern bias"
KEYS += " short_factor partial_rotary_factor reward_token_id classifier_from_token rope_local_base_freq architectures"
KEYS += " sliding_window_pattern model_type final_logit_softcapping tie_word_embeddings attention_factor"
KEYS += " num_experts num_local_experts num_experts_per_tok mlp_only_layers decoder_sparse_step norm_topk_prob"
KEYS += " query_pre_attn_scalar alpha_pattern use_rslora revision chat_template bos_token content weight_map normalizer"
DTYPES = ["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "", "f32", 32]
NAMES = ["score.weight", "score.bias", "v_head.summary.weight", "lm_head.weight", "norm.weight", "\0", "../x", ""]
NAMES += ["score.0.weight", "v_head.weight", "value_head.weight", "regression_head.weight", "gating.layers.0.weight"]
HEADS = ("score", "v_head", "value_head", "regression_head")
OTHER_HEADS = {
    "openrlhf": ("mistral", "RewardModel"),
    "inform": ("llama", "INFORMForSequenceClassification"),
    "grm": ("qwen3", "GRewardModel"),
    "factory": ("qwen2", "AceCodeRM"),
    "athene": ("llama", "AtheneForSequenceClassification"),
    "rows": ("qwen3", "CausalLM"),
    "phi3": ("phi3", "SequenceClassification"),
    "gemma3": ("gemma3_text", "SequenceClassification"),
}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "short_factor": [1.0, 2.0]}
JINJA = """{% for m in messages %} {% for i in range(99999) %} {% endfor %} {% if m %} {% else %} {% endif %} {{ m }}
{{ }} {% %} {% set n = namespace(s='ab') %} {% set n.s = n.s ~ n.s %} {{ n.s }} {{ 'a' * 10**9 }} {{ ''.__class__ }}
{{ messages.append }} {% macro f(x) %} {{ f(f) }} {% endmacro %} {% generation %} {% endgeneration %} {{ self }}
~ [ ] ( ) - * ** . .content ['role'] messages loop loop.index 9 'a' #} {# {{ raise_exception('no') }} .join is in not
|tojson |indent |map('string') |list |join |sort |replace('','bb') |trim |length |int |string |format |attr {% raw %}"""
# Folders that name their tokens as older ones do, and what a hostile tokenizer may hold.
OLD_FILES = {
    "llama": {"special_tokens_map.json": {"eos_token": {"content": "<|im_end|>", "lstrip": False}}},
    "gemma2": {"added_tokens.json": {"<|im_start|>": 257}, "special_tokens_map.json": {"bos_token": "<|im_start|>"}},
}
ADDED = {"id": 259, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
ADDED |= {"special": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
REGEXES = [r"(a+)+b", r"\p{L}+", "", "((a{99}){99}){99}", "(?<=a|bb)", "[", r"\s+(?!\S)|\s+", "(?:)*", "\\1(a)"]
STEPS = [
    BYTES,
    {"type": "NFKD"},
    {"type": "Lowercase"},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Prepend", "prepend": "aé"},
    {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABhAA=="},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Whitespace"},
    {"type": "Digits", "individual_digits": True},
    {"type": "FixedLength", "length": 1},
    *({"type": "Replace", "pattern": {"Regex": text}, "content": "ab"} for text in REGEXES),
    *({"type": "Split", "pattern": {"Regex": text}, "behavior": "Isolated", "invert": False} for text in REGEXES),
]
AROUND = [
    BYTES,
    {"type": "RobertaProcessing", "sep": ["a", 1], "cls": ["b", 2], "trim_offsets": True, "add_prefix_space": True},
    *(
        {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}
        for single in ([], *([{"Sequence": {"id": "A", "type_id": 0}}] * times for times in (1, 2, 20_000)))
    ),
]
MODELS = [
    {"type": "Unigram", "unk_id": 0, "vocab": [["<u>", 0.0], ["d", -1.0], ["a" * 60, -2.0]], "byte_fallback": False},
    {"type": "Unigram", "unk_id": 0, "vocab": [["a" * n, -1.0] for n in range(1, 500)], "byte_fallback": True},
    {"type": "WordLevel", "vocab": {"a": 0, "d": 1}, "unk_token": "a"},
    {"type": "WordPiece", "vocab": {"a": 0, "##d": 1}, "unk_token": "a", "continuing_subword_prefix": "##"}
    | {"max_input_chars_per_word": 10**9},
]
TOKENS = [*re.findall(r"\{[{%] .*? [%}]\}|\S+", JINJA), "\n", " ", "\ud800"]


def build(root):
    """Saves the checkpoints that cases are copies of, each with a tokenizer of single bytes and a template."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    from codescaler.testing import (
        edit_json,
        save_as_internlm2,
        save_random_checkpoint,
        save_random_lora,
        split_value_head,
    )

    warnings.simplefilter("ignore")
    save_random_checkpoint(root / "qwen3", "qwen3", **SIZES)
    save_random_checkpoint(root / "llama", "llama", "TokenClassification", attention_bias=True, **SIZES)
    save_random_checkpoint(root / "gemma2", "gemma2", **SIZES)
    save_random_checkpoint(root / "experts", "qwen3_moe", num_experts=4, num_experts_per_tok=2, **SIZES)
    save_random_checkpoint(root / "value", "qwen2", "AceCodeRM", **SIZES)
    save_random_checkpoint(root / "sharded", "qwen3", max_shard_size="50KB", **SIZES)
    save_random_checkpoint(root / "causal", "qwen3", "CausalLM", **SIZES)
    save_random_lora(root / "lora", root / "causal")
    (root / "lora/README.md").unlink()
    for name, (family, architecture) in OTHER_HEADS.items():
        save_random_checkpoint(root / name, family, architecture, **SIZES)
    split_value_head(root / "factory")
    edit_json(root / "factory/config.json", architectures=["Qwen2ForCausalLM"])
    edit_json(root / "athene/config.json", reward_token_id=9)
    edit_json(root / "rows/config.json", classifier_from_token=["a", "d"], tie_word_embeddings=True)
    edit_json(root / "phi3/config.json", rope_parameters=LONGROPE | {"original_max_position_embeddings": 400})
    save_random_checkpoint(root / "source", "llama", "AtheneForSequenceClassification", **SIZES)
    save_as_internlm2(root / "source", root / "internlm2", 9)
    shutil.rmtree(root / "source")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*letters, "ad"])}, [("a", "d")]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("\r", "\n")])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.post_processor = processors.TemplateProcessing("<|im_start|> $A", special_tokens=[("<|im_start|>", 257)])
    config = {"eos_token": "<|im_end|>", "added_tokens_decoder": {"257": {"content": "<|im_start|>"}}}
    for folder in root.iterdir():
        tokenizer.save(str(folder / "tokenizer.json"))
        own = config if folder.name not in OLD_FILES else {"eos_token": "<|im_end|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(own))
        for name, content in OLD_FILES.get(folder.name, {}).items():
            (folder / name).write_text(json.dumps(content))
        shutil.copy(Path(__file__).parent.parent / "text/templates/qwen3.jinja", folder / "chat_template.jinja")


def mutate(folder, rng):
    """Damages one file; returns what was done, and whether scores may be other than finite from now on."""
    path = rng.choice([path for path in sorted(folder.iterdir()) if path.is_file()])
    content, new = path.read_bytes(), None
    if rng.random() < 0.03:
        what = rng.choice(["absent", "folder", "link", "pipe"])
        path.unlink()
        make = {"folder": path.mkdir, "link": lambda: path.symlink_to(path.name), "pipe": lambda: os.mkfifo(path)}
        make.get(what, lambda: None)()
    else:
        by_kind = {".safetensors": mutate_tensors, ".json": mutate_json, ".jinja": mutate_template}
        change = damage if rng.random() < 0.15 else by_kind[path.suffix]
        if path.name == "tokenizer.json" and rng.random() < 0.8:  # else hardly more than its vocabulary is reached
            change = mutate_tokenizer
        try:
            what, new = change(content, rng)
            path.write_bytes(new)
        except Exception as error:  # an earlier mutation broke the file
            what = f"left as it was ({type(error).__name__})"
    # An adapter's alpha alone can carry weights out of float32.
    return f"{path.name}: {what}", path.suffix == ".safetensors" or path.name == "adapter_config.json"


def damage(content, rng):
    at = rng.randrange(1 + (len(content) if rng.random() < 0.5 else min(len(content), 2000)))
    text = rng.choice(["\0", "9" * 5000, "NaN", '"', "{", "]", ",", '{"a": 1, "a": 2}', "\ufeff", "\ud800"])
    bit = 1 << rng.randrange(8)
    deep = b"[" * (depth := rng.choice([50, rng.randrange(900, 1000), 10**5]))
    return rng.choice([
        (f"cut at {at}", content[:at]),
        (f"bytes at {at}", content[:at] + rng.randbytes(4) + content[at + rng.randint(0, 4) :]),
        (f"a bit at {at}", content[:at] + bytes(byte ^ bit for byte in content[at : at + 1]) + content[at + 1 :]),
        (f"repeated at {at}", content[:at] + content[at // 2 :]),
        (f"{text[:20]!a} at {at}", content[:at] + text.encode(errors="surrogatepass") + content[at:]),
        (f"deep {depth}", b'{"a": ' + deep + b"]" * depth + b"}"),
    ])  # fmt: skip


def mutate_tensors(content, rng):
    """Edits a header with no regard for the data, or tensor and header together."""
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    header.pop("__metadata__", None)
    heads = [name for name in header if name.startswith(HEADS)]
    name, other = rng.choice(heads if heads and rng.random() < 0.3 else list(header)), rng.choice(list(header))
    entry = header[name]
    (start, end), shape = entry["data_offsets"], entry["shape"]
    kind = rng.choice(
        ["length", "space", "dtype", "shape", "offsets", "twice", "rename", "again", "value", "resize", "many"]
    )
    if kind == "length":
        size = rng.choice([0, 1, size - 1, size + 1, len(content), 10**8, 2**31, 2**63, 2**64 - 1])
        return f"header length {size}", struct.pack("<Q", size) + content[8:]
    if kind == "dtype":
        entry["dtype"] = rng.choice(DTYPES)
    elif kind == "shape":
        entry["shape"] = rng.choice([shape[::-1], [*shape, 1], [2, *shape[1:]], shape[1:], [0], [-1], [2**63] * 2])
    elif kind == "offsets":
        others = header[other]["data_offsets"]
        entry["data_offsets"] = rng.choice([others, [start, end + 4], [start - 4, end], [end, start], [start]])
    elif kind in ("rename", "again"):
        new = rng.choice([*NAMES, other, name.removeprefix("model."), f"model.{name}"])
        header[new] = header.pop(name) if kind == "rename" else entry
    elif kind == "value":
        at = rng.randrange(start, end, 4)
        number = struct.pack("<f", rng.choice([math.nan, math.inf, -math.inf, 0.0, 3e38, 1e-40]))
        stop = rng.choice([at + 4, end])
        data = data[:at] + number * ((stop - at) // 4) + data[stop:]
    elif kind == "resize":  # dropped, or with twice the rows
        piece = data[start:end] * rng.choice([0, 2])
        data = data[:start] + piece + data[end:]
        for later in header.values():
            if later["data_offsets"][0] >= end:
                later["data_offsets"] = [at + len(piece) - (end - start) for at in later["data_offsets"]]
        entry |= {"shape": [2 * shape[0], *shape[1:]], "data_offsets": [start, start + len(piece)]}
        if not piece:
            del header[name]
    elif kind == "many":
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        header = {f"a{n}": empty for n in range(rng.choice([10, 70_000, 600_000]))} | header
    text = json.dumps(header)
    if kind == "twice":
        text = f"{text[:-1]}, {json.dumps(name)}: {json.dumps(header[other])}}}"
    text += " " * (rng.randint(1, 9) if kind == "space" else -len(text) % 8)
    return f"{kind} of {name} to {entry}", struct.pack("<Q", len(text)) + text.encode() + data


def mutate_json(content, rng):
    """Changes, removes, adds or wraps one value somewhere in a file."""
    tree = json.loads(content)
    held, where = tree, []
    while isinstance(held, (dict, list)) and held and (not where or rng.random() < 0.7):
        holder, key = held, rng.choice(list(held) if isinstance(held, dict) else range(len(held)))
        held = holder[key]
        where.append(key)
    value = rng.choice([*rng.choice([NUMBERS, TEXTS, OTHERS, TEXTS if isinstance(held, str) else NUMBERS]), key])
    if isinstance(holder, dict) and rng.random() < 0.2:
        value = rng.choice(list(holder.values()))
    elif isinstance(held, int) and rng.random() < 0.3:
        value = held + rng.choice([-1, 1, held])
    kind = rng.choice(["set", "set", "set", "add", "remove", "wrap"])
    if kind == "wrap":
        value = rng.choice([[held], {"a": held}, {str(key): held}, [held] * 50])
    if kind == "add" and isinstance(holder, dict):
        where[-1] = key = rng.choice([*KEYS.split(), *TEXTS])
    if kind == "remove":
        del holder[key]
    elif kind == "add" and isinstance(holder, list):
        holder.insert(key, value)
    else:
        holder[key] = value
    return f"{kind} {'/'.join(map(str, where))!a:.80} to {value!a:.80}", json.dumps(tree).encode()


def mutate_tokenizer(content, rng):
    """Puts in what makes ids random, text endless, or a search slow."""
    tree = json.loads(content)
    kind = rng.choice(["model", "dropout", "normalizer", "pre_tokenizer", "post_processor", "added", "settings"])
    if kind == "model":
        tree["model"] = rng.choice(MODELS)
    elif kind == "dropout":
        tree["model"]["dropout"] = rng.choice([0, 0.1, 0.9, 1, 2, None])
    elif kind in ("normalizer", "pre_tokenizer"):
        name = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}[kind]
        steps = rng.choices(STEPS, k=rng.randint(1, 4)) * rng.choice([1, 1, 2, 5, 40])
        own = [tree[kind]] if rng.random() < 0.5 else []
        tree[kind] = {"type": "Sequence", name: [*own, *steps]}
    elif kind == "post_processor":
        tree[kind] = {"type": "Sequence", "processors": rng.choices([*AROUND, tree[kind]], k=rng.randint(1, 3))}
    elif kind == "added":
        text, count = rng.choice([("<x>", 1), ("", 1), (" ", 1), ("a", 1), ("a" * 2**21, 1), ("é" * 600, 2000)])
        flags = {key: rng.random() < 0.5 for key in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        number = rng.choice([259, 0, 2**32 - 1])
        for index in range(count):
            tree["added_tokens"].append(ADDED | flags | {"id": number + index, "content": f"{text}{index or ''}"})
    else:
        tree["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
        tree["padding"] = {"strategy": {"Fixed": 10 ** rng.randint(1, 9)}, "direction": "Right", "pad_id": 0}
        tree["padding"] |= {"pad_to_multiple_of": None, "pad_type_id": 0, "pad_token": "a"}
    return f"{kind}: {json.dumps(tree[kind] if kind in tree else tree['added_tokens'][-1:])!a:.200}", json.dumps(
        tree
    ).encode()


def mutate_template(content, rng):
    parts = re.findall(r"\{%.*?%\}|\{\{.*?\}\}|\w+|\s+|.", content.decode(errors="replace"), re.DOTALL)
    if rng.random() < 0.3:  # a short one, of which more is reached
        parts = rng.choices(TOKENS, k=rng.randint(1, 12))
    for _ in range(rng.randint(1, 4)):
        at, other = sorted((rng.randrange(len(parts) + 1), rng.randrange(len(parts) + 1)))
        parts[at : other if rng.random() < 0.2 else at] = rng.choice([rng.choices(TOKENS, k=2), parts[at:other][:20]])
    text = "".join(parts)
    return f"{text!a:.400}", text.encode(errors="surrogatepass")


def check(folder, may_be_infinite, mode):
    """What must hold for any folder; returns whether it gave scores. An exception is a failure.

    `mode` is what control tokens are. One mode for all, so that the same programs have the same ids.
    """
    import numpy as np

    from codescaler.engine import Engine
    from codescaler.errors import CodescalerError, WeightsError

    try:
        engine = Engine.from_pretrained(folder, num_threads=1, local_files_only=True, control_tokens=mode)
        scores = engine.score([(PROBLEM, program) for program in PROGRAMS])
    except CodescalerError as error:
        if len(str(error)) < 20 or not str(error).isprintable():
            raise AssertionError(f"an error that says nothing, or not in print: {error!r}") from error
        return False
    assert scores.shape == (len(PROGRAMS),) and scores.dtype == np.float32, "scores of another shape"
    try:
        ranked = engine.rerank(PROBLEM, PROGRAMS)
    except WeightsError:
        assert may_be_infinite and not np.isfinite(scores).all(), f"not ranked, with scores {scores}"
    else:
        assert {c.index: c.score for c in ranked} == dict(enumerate(scores.tolist())), "ranked by other scores"
        assert np.isfinite(scores).all(), f"ranked by {scores}"
    return True


def work(root, seed, numbers, connection):
    warnings.simplefilter("ignore")
    kinds = sorted(path.name for path in root.iterdir() if path.name != "causal")
    assert all(check(root / kind, False, "tokens") for kind in kinds), "a checkpoint without damage was refused"
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, resource.RLIM_INFINITY))
    folder = root.parent / "case"
    for number in numbers:
        rng = random.Random(f"{seed}/{number}")
        kind = rng.choice(kinds)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(root / kind, folder)
        mutations, risks = zip(*(mutate(folder, rng) for _ in range(rng.choice([1, 1, 2, 3]))), strict=True)
        mode = rng.choice(["text", "tokens"])
        connection.send((number, kind, mutations))
        signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)  # kills this process
        try:
            connection.send(("loaded" if check(folder, any(risks), mode) else "refused", ""))
        except BaseException as error:  # what a panic in Rust raises derives from nothing better
            connection.send(("failed", f"{type(error).__name__}: {error!s:.300}"))
        signal.setitimer(signal.ITIMER_PROF, 0)


def fuzz(minutes, seed, only):
    """Returns the number of cases that failed."""
    counts = dict.fromkeys(("loaded", "refused", "failed"), 0)
    slowest, last = (0.0, -1), 10**12 if only is None else only
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "checkpoints"
        root.mkdir()
        build(root)
        end, number = time.monotonic() + 60 * minutes, only or 0
        while time.monotonic() < end and number <= last:
            connection, other_end = context.Pipe()
            child = context.Process(target=work, args=(root, seed, range(number, last + 1), other_end), daemon=True)
            child.start()
            other_end.close()
            is_alive = True
            while is_alive and time.monotonic() < end and number <= last:
                number, kind, mutations = connection.recv()
                started, verdict, reason = time.monotonic(), "failed", f"nothing in {WAIT_SECONDS} s"
                try:
                    if is_alive := connection.poll(WAIT_SECONDS):
                        verdict, reason = connection.recv()
                except EOFError:
                    child.join()
                    is_alive, verdict = False, "failed"
                    reason = f"exit code {child.exitcode}, -{signal.SIGPROF:d} for {HANG_SECONDS} s of CPU time"
                counts[verdict] += 1
                slowest = max(slowest, (time.monotonic() - started, number))
                if verdict == "failed":
                    print(f"FAILED --seed {seed} --only {number} ({reason}): {kind}, {mutations}", flush=True)
                number += 1
            child.kill()
            child.join()
    split = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print(f"{sum(counts.values())} cases: {split}; slowest {slowest[0]:.2f} s (--only {slowest[1]})")
    return counts["failed"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one case to run again")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "RUST_BACKTRACE": "0"}
    sys.exit(fuzz(arguments.minutes, arguments.seed, arguments.only) > 0)
