"""Checkpoints that transformers saved, read back tensor by tensor; and all that is refused."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codescaler.checkpoint import tensor_files
from codescaler.checkpoint.download import resolve_folder
from codescaler.checkpoint.load import open_checkpoint
from codescaler.engine import Engine
from codescaler.errors import (
    CodescalerError,
    HostileFile,
    InvalidInput,
    MissingTensor,
    ShapeMismatch,
    UnsupportedModel,
    WeightsError,
)
from codescaler.testing import edit_json, edit_tensors, save_random_checkpoint

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Q_BIAS = "model.layers.0.self_attn.q_proj.bias"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """One folder per kind of checkpoint that tests damage copies of."""
    root = tmp_path_factory.mktemp("pristine")
    save_random_checkpoint(root / "score", "qwen3")
    save_random_checkpoint(root / "tokens", "qwen3", "TokenClassification")
    save_random_checkpoint(root / "causal", "qwen3", "CausalLM")
    save_random_checkpoint(root / "value", "qwen2", "AceCodeRM")
    save_random_checkpoint(root / "sharded", "qwen3", max_shard_size="200KB")
    return root


@pytest.fixture
def copy(pristine, tmp_path):
    """Returns a function that copies a pristine folder."""
    return lambda kind: Path(shutil.copytree(pristine / kind, tmp_path / kind))


def canonical(name):
    for head in ("score.", "v_head.summary."):
        name = name.replace(head, "head.")
    return name.removeprefix("model.")


def add(name, tensor):
    return lambda tensors: tensors | {name: tensor}


def drop(*names):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def rename(old, new):
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def split_experts(tensors):
    """Of transformers' modules, which hold all experts of a layer in one tensor."""
    for name, tensor in tensors.items():
        at, is_expert, part = name.rpartition(".experts.")
        if not is_expert:
            yield name, tensor
        for index, weight in enumerate(tensor if is_expert else ()):
            names = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}[part]
            for one, rows in zip(names, weight.chunk(len(names)), strict=True):
                yield f"{at}.experts.{index}.{one}.weight", rows


@pytest.mark.parametrize("max_shard_size", ["5GB", "100KB"])
@pytest.mark.parametrize(
    ("family", "architecture", "settings"),
    [
        ("qwen3", "SequenceClassification", {}),
        ("qwen3", "SequenceClassification", {"attention_bias": True}),
        ("qwen3_moe", "SequenceClassification", {"mlp_only_layers": [0]}),
        ("qwen2", "SequenceClassification", {}),
        ("qwen2", "AceCodeRM", {}),
        ("llama", "SequenceClassification", {"attention_bias": True, "mlp_bias": True}),
        ("llama", "TokenClassification", {}),
        ("gemma2", "SequenceClassification", {}),
    ],
)
def test_every_tensor_is_the_modules(tmp_path, family, architecture, settings, max_shard_size):
    dtype = torch.bfloat16
    model = save_random_checkpoint(
        tmp_path, family, architecture, dtype=dtype, max_shard_size=max_shard_size, **settings
    )
    assert (tmp_path / INDEX).exists() == (max_shard_size != "5GB")
    checkpoint = open_checkpoint(tmp_path)
    expected = {canonical(name): tensor for name, tensor in model.state_dict().items() if "lm_head" not in name}
    expected = dict(split_experts(expected))
    assert checkpoint.sources.keys() == expected.keys()
    for name, tensor in expected.items():
        ours = checkpoint.read_tensor(name)
        assert ours.dtype == dtype
        assert torch.equal(ours, tensor), name
    assert (checkpoint.config.family, checkpoint.config.dtype) == (family, "bfloat16")
    assert checkpoint.folder == tmp_path
    assert checkpoint.base_folder is None


def test_experts_are_neither_trained_nor_quantised(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3_moe")
    with pytest.raises(UnsupportedModel, match=r"cannot be trained yet; fit a head on it"):
        open_checkpoint(tmp_path).require_trainable()
    with pytest.raises(UnsupportedModel, match="mixture of experts, which is not quantised"):
        Engine.from_pretrained(tmp_path, quantization="int8")


def test_a_missing_expert_is_named(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3_moe")
    name = "layers.1.mlp.experts.6.up_proj.weight"
    edit_tensors(tmp_path / "model.safetensors", lambda tensors: {n: t for n, t in tensors.items() if name not in n})
    with pytest.raises(MissingTensor, match=name):
        open_checkpoint(tmp_path)


def test_head_kinds_and_bias(copy):
    for kind, head, has_bias in [
        ("score", "sequence_classification", False),
        ("tokens", "token_classification", True),
        ("value", "value_head", True),
    ]:
        checkpoint = open_checkpoint(copy(kind))
        assert (checkpoint.config.head, checkpoint.has("head.bias")) == (head, has_bias)
        assert checkpoint.read_tensor("head.weight").shape == (1, checkpoint.config.hidden_size)
        assert (checkpoint.get("head.bias") is not None) == has_bias
    with pytest.raises(MissingTensor, match=r"head\.bais"):
        checkpoint.read_tensor("head.bais")


def test_token_classifier_without_bias(copy):
    folder = copy("tokens")
    edit_tensors(folder / SINGLE, drop("score.bias"))
    assert not open_checkpoint(folder).has("head.bias")


def test_causal_lm_with_a_value_head_is_a_reward_model(copy):
    folder = copy("value")
    edit_json(folder / "config.json", architectures=["Qwen2ForCausalLM"])
    assert open_checkpoint(folder).config.head == "value_head"


@pytest.mark.parametrize("kind", ["score", "tokens", "causal", "value"])
def test_head_none_leaves_any_head_aside(copy, kind):
    checkpoint = open_checkpoint(copy(kind), head="none")
    assert checkpoint.config.head == "none"
    assert not checkpoint.has("head.weight")
    assert not checkpoint.has("head.bias")


@pytest.mark.parametrize("prefix", ["", "model.language_model.", "language_model.model."])
def test_name_prefixes(pristine, copy, prefix):
    folder = copy("score")
    edit_tensors(folder / SINGLE, rename("model.", prefix))
    ours, theirs = open_checkpoint(folder), open_checkpoint(pristine / "score")
    assert ours.sources.keys() == theirs.sources.keys()
    assert all(torch.equal(ours.read_tensor(name), theirs.read_tensor(name)) for name in ours.sources)


def test_head_may_have_a_dtype_of_its_own(copy):
    folder = copy("score")
    edit_tensors(
        folder / SINGLE,
        lambda ts: {n: t if n == "score.weight" else t.to(torch.float16) for n, t in ts.items()},
    )
    checkpoint = open_checkpoint(folder)
    assert checkpoint.read_tensor("head.weight").dtype == torch.float32
    # What the tensors are wins over what config.json says they are.
    assert checkpoint.config.dtype == "float16"
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


def test_tensors_known_to_be_unused(copy):
    folder = copy("score")
    for name in (
        "lm_head.weight",
        "model.rotary_emb.inv_freq",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    ):
        edit_tensors(folder / SINGLE, add(name, torch.zeros(3, dtype=torch.float64)))
    assert not any("lm_head" in name or "rotary" in name for name in open_checkpoint(folder).sources)


def test_opening_reads_no_tensor(copy, monkeypatch):
    monkeypatch.setattr("codescaler.checkpoint.tensor_files.StoredTensor.read", lambda self: pytest.fail("read early"))
    open_checkpoint(copy("score"))


@pytest.mark.parametrize(
    ("kind", "change", "error", "message"),
    [
        ("score", drop("score.weight"), MissingTensor, r"lacks 1 tensors: score\.weight"),
        ("score", drop("model.norm.weight"), MissingTensor, r"norm\.weight"),
        (
            "score",
            drop("model.layers.2.mlp.up_proj.weight"),
            MissingTensor,
            r"layers\.2\.mlp\.up_proj\.weight",
        ),
        ("score", rename("model.layers.2", "model.layers.3"), WeightsError, r"layers\.3.* has no role"),
        ("score", add(Q_BIAS, torch.zeros(128)), WeightsError, "q_proj.bias has no role"),
        ("score", add("score.bias", torch.zeros(1)), WeightsError, r"score\.bias has no role"),
        ("score", add("head.bias", torch.zeros(1)), WeightsError, r"head\.bias has no role"),
        ("score", add("v_head.summary.weight", torch.zeros(1, 64)), WeightsError, "no role"),
        ("score", add("norm.weight", torch.zeros(64)), HostileFile, "mean the same tensor"),
        ("score", add("score.weight", torch.zeros(2, 64)), ShapeMismatch, "scores 2 labels"),
        ("score", add("score.weight", torch.zeros(64)), ShapeMismatch, r"\(64,\).*\(1, 64\)"),
        ("score", add("model.norm.weight", torch.zeros(63)), ShapeMismatch, r"\(63,\).*\(64,\)"),
        ("score", add("model.norm.weight", torch.zeros(64).double()), ShapeMismatch, "F64"),
        ("score", add("score.weight", torch.zeros(1, 64).short()), ShapeMismatch, "I16"),
        ("tokens", add("score.bias", torch.zeros(2)), ShapeMismatch, r"score\.bias"),
        ("value", drop("v_head.summary.bias"), MissingTensor, r"v_head\.summary\.bias"),
        ("value", drop("v_head.summary.weight"), MissingTensor, r"v_head\.summary\.weight"),
        ("causal", drop(), MissingTensor, "no reward head.*head='none'"),
    ],
)
def test_tensors_that_differ_from_the_configuration(copy, kind, change, error, message):
    folder = copy(kind)
    edit_tensors(folder / SINGLE, change)
    with pytest.raises(error, match=message):
        open_checkpoint(folder)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists a process's mappings")
def test_what_was_read_and_let_go_is_no_longer_mapped(copy, monkeypatch):
    monkeypatch.setattr(tensor_files, "_MAPPED_BYTES", 1)
    checkpoint = open_checkpoint(copy("score"))
    mappings = []
    for name in list(checkpoint.sources)[:6]:
        checkpoint.read_tensor(name)
        mappings.append(Path("/proc/self/maps").read_text().count(str(checkpoint.folder)))
    assert mappings == [1] * 6
    kept = [checkpoint.read_tensor(name) for name in list(checkpoint.sources)[:6]]
    assert Path("/proc/self/maps").read_text().count(str(checkpoint.folder)) == len(kept)


def test_a_file_that_changes_while_it_is_read(copy, monkeypatch):
    monkeypatch.setattr(tensor_files, "_MAPPED_BYTES", 1)
    checkpoint = open_checkpoint(copy("score"))
    checkpoint.read_tensor("norm.weight")
    path = checkpoint.folder / SINGLE
    edit_tensors(path, add("model.norm.weight", torch.ones(3)))
    with pytest.raises(HostileFile, match=r"model\.safetensors has changed while it was read"):
        checkpoint.read_tensor("norm.weight")
    path.unlink()
    with pytest.raises(HostileFile, match="No such file"):
        checkpoint.read_tensor("norm.weight")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 100, b"\x80\x00\x00\x00\x00\x00\x00\x00" + b" " * 200])
def test_damaged_tensor_file(copy, content):
    folder = copy("score")
    (folder / SINGLE).write_bytes(content)
    with pytest.raises(HostileFile, match=r"model\.safetensors is damaged"):
        open_checkpoint(folder)


def test_cut_off_tensor_file(copy):
    folder = copy("score")
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-1])
    with pytest.raises(HostileFile, match="damaged"):
        open_checkpoint(folder)


def edit_header(path, change, padding=0):
    """Rewrites a safetensors header as text, with no regard for the data after it."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    text = change(content[8 : 8 + size].decode().rstrip()).encode()
    text += b" " * (-len(text) % 8 + padding)
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def with_entry(name, **changes):
    """Changes the entry of one tensor."""

    def change(text):
        header = json.loads(text)
        header[name] |= changes
        return json.dumps(header)

    return change


def doubled(name, **changes):
    """Has the header name one tensor twice, the second time with changes."""
    return lambda text: f"{text[:-1]}, {json.dumps(name)}: {json.dumps(json.loads(text)[name] | changes)}}}"


NORM = "model.norm.weight"  # [64] in float32


@pytest.mark.parametrize(
    "change",
    [
        with_entry(NORM, data_offsets=[0, 256]),
        with_entry(NORM, data_offsets=[2**40, 2**40 + 256]),
        with_entry(NORM, data_offsets=[256, 0]),
        with_entry(NORM, data_offsets=[-256, 0]),
        with_entry(NORM, shape=[63]),
        with_entry(NORM, shape=[2**62, 2**62]),
        with_entry(NORM, shape=[-64]),
        with_entry(NORM, dtype="F16"),
        with_entry(NORM, dtype="F33"),
        doubled(NORM, data_offsets=[0, 256]),
        doubled(NORM, shape=[65]),
        lambda text: text[:-1],
        lambda text: "[" * 100_000,
    ],
)
def test_header_that_misleads(copy, change):
    """Overlaps, ranges outside the file or of another size, doubled names, broken and deep JSON."""
    folder = copy("score")
    edit_header(folder / SINGLE, change)
    with pytest.raises(HostileFile, match=r"model\.safetensors is damaged .*; fetch the file again"):
        open_checkpoint(folder)


@pytest.mark.parametrize("size", [0, 10**8 + 1, 2**40, 2**63, 2**64 - 1])
def test_header_of_another_length(copy, size):
    folder = copy("score")
    (folder / SINGLE).write_bytes(struct.pack("<Q", size) + (folder / SINGLE).read_bytes()[8:])
    with pytest.raises(HostileFile, match=r"model\.safetensors is damaged"):
        open_checkpoint(folder)


def test_tensor_that_the_header_names_twice(pristine, copy):
    """The last entry counts, as in every reader of safetensors; it has to fit the data and the model."""
    folder = copy("score")
    edit_header(folder / SINGLE, doubled(NORM))
    assert torch.equal(
        open_checkpoint(folder).read_tensor("norm.weight"),
        open_checkpoint(pristine / "score").read_tensor("norm.weight"),
    )
    edit_header(folder / SINGLE, doubled(NORM, shape=[8, 8]))
    with pytest.raises(ShapeMismatch, match=r"\(8, 8\).*\(64,\)"):
        open_checkpoint(folder)


@pytest.mark.parametrize("padding", [1, 2, 4])
def test_tensors_at_odd_addresses(pristine, copy, padding):
    """Old writers did not align the data."""
    folder = copy("score")
    edit_header(folder / SINGLE, lambda text: text, padding)
    ours, theirs = open_checkpoint(folder), open_checkpoint(pristine / "score")
    assert all(torch.equal(ours.read_tensor(name), theirs.read_tensor(name)) for name in ours.sources)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_damaged_config(copy, content):
    folder = copy("score")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(HostileFile, match=r"config\.json"):
        open_checkpoint(folder)


def test_oversized_json(copy, monkeypatch):
    monkeypatch.setattr("codescaler.io.json._MAX_JSON_BYTES", 100)
    with pytest.raises(HostileFile, match="above the limit of 100"):
        open_checkpoint(copy("score"))


@pytest.mark.parametrize("name", ["config.json", SINGLE])
def test_missing_file(copy, name):
    folder = copy("score")
    (folder / name).unlink()
    with pytest.raises(MissingTensor, match=name):
        open_checkpoint(folder)


def test_pipe_in_place_of_a_file(copy):
    folder = copy("score")
    (folder / SINGLE).unlink()
    os.mkfifo(folder / SINGLE)
    with pytest.raises(HostileFile, match="is a pipe, no regular file"):
        open_checkpoint(folder)


def test_pickles_are_never_read(copy):
    folder = copy("score")
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    with pytest.raises(MissingTensor, match=r"pytorch_model\.bin, a pickle.*save_pretrained"):
        open_checkpoint(folder)


def edit_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors",
        "/etc/a.safetensors",
        "a\\b.safetensors",
        "a/b.safetensors",
        "model.bin",
        "..",
        "",
        3,
        "\ud800.safetensors",
    ],
)
def test_index_must_name_plain_files(copy, shard):
    folder = copy("sharded")
    edit_index(folder, lambda names: names | {"score.weight": shard})
    with pytest.raises(HostileFile, match="names the shard"):
        open_checkpoint(folder)


@pytest.mark.parametrize("weight_map", [None, {}, [], "model.safetensors"])
def test_index_without_a_map(copy, weight_map):
    folder = copy("sharded")
    edit_index(folder, lambda names: weight_map)
    with pytest.raises(HostileFile, match="weight_map"):
        open_checkpoint(folder)


def test_shard_that_is_absent(copy):
    folder = copy("sharded")
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(MissingTensor, match="model-00002"):
        open_checkpoint(folder)
    edit_index(folder, lambda names: dict.fromkeys(names, "a" * 300 + ".safetensors"))
    with pytest.raises(MissingTensor, match=r"aaaa\.safetensors is not there"):
        open_checkpoint(folder)


def test_tensor_that_the_index_promises_in_vain(copy):
    folder = copy("sharded")
    edit_index(folder, lambda names: names | {Q_BIAS: names["score.weight"]})
    with pytest.raises(MissingTensor, match=f"lacks {Q_BIAS}"):
        open_checkpoint(folder)


def test_tensor_that_the_index_hides(copy):
    folder = copy("sharded")
    edit_tensors(next(folder.glob("model-00001*")), add(Q_BIAS, torch.zeros(128)))
    with pytest.raises(HostileFile, match=f"{Q_BIAS}.*does not list"):
        open_checkpoint(folder)


def test_index_decides_between_two_shards(copy):
    folder = copy("sharded")
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    other = sorted(set(weight_map.values()) - {weight_map["score.weight"]})[0]
    edit_tensors(folder / other, add("score.weight", torch.full((1, 64), 7.0)))
    assert not torch.equal(open_checkpoint(folder).read_tensor("head.weight"), torch.full((1, 64), 7.0))
    edit_index(folder, lambda names: names | {"score.weight": other})
    assert torch.equal(open_checkpoint(folder).read_tensor("head.weight"), torch.full((1, 64), 7.0))


def test_shard_link_out_of_the_folder(copy):
    folder = copy("sharded")
    shard = next(folder.glob("model-00001*"))
    shard.rename(folder.parent / "elsewhere.safetensors")
    shard.symlink_to("../elsewhere.safetensors")
    with pytest.raises(HostileFile, match="leads out of"):
        open_checkpoint(folder)


def test_shard_link_to_itself(copy):
    folder = copy("sharded")
    shard = next(folder.glob("model-00001*"))
    shard.unlink()
    shard.symlink_to(shard.name)
    with pytest.raises(WeightsError, match=r"model-00001.*fetch the checkpoint again"):
        open_checkpoint(folder)


@pytest.mark.parametrize("kind", ["score", "sharded"])
def test_links_of_a_hub_cache(pristine, tmp_path, kind):
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123"
    shutil.copytree(pristine / kind, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert open_checkpoint(snapshot).has("head.weight")


def test_unusable_arguments(copy):
    folder = copy("score")
    with pytest.raises(InvalidInput, match="head is 'maybe'"):
        open_checkpoint(folder, head="maybe")
    with pytest.raises(InvalidInput, match="base_model was given"):
        open_checkpoint(folder, base_model="a/b")
    with pytest.raises(InvalidInput, match="revision 'main'"):
        resolve_folder(folder, revision="main")


def test_errors_of_the_configuration_pass_through(copy):
    folder = copy("score")
    edit_json(folder / "config.json", hidden_act="relu")
    with pytest.raises(UnsupportedModel, match="relu"):
        open_checkpoint(folder)


def test_local_folders(pristine, monkeypatch):
    assert resolve_folder(pristine / "score") == pristine / "score"
    assert resolve_folder(str(pristine / "score")) == pristine / "score"
    monkeypatch.setenv("HOME", str(pristine))
    assert resolve_folder("~/score") == pristine / "score"
    monkeypatch.chdir(pristine)
    assert resolve_folder("score") == Path("score")
    with pytest.raises(WeightsError, match="is a file"):
        resolve_folder(pristine / "score" / SINGLE)


def test_the_model_in_the_package(pristine, tmp_path, monkeypatch):
    monkeypatch.setattr("codescaler.checkpoint.download.PACKAGED_MODEL", pristine / "score")
    monkeypatch.chdir(tmp_path)
    assert resolve_folder(None) == resolve_folder("nano") == pristine / "score"
    with pytest.raises(InvalidInput, match="revision 'main' was given for nano, which is packaged"):
        resolve_folder(None, revision="main")
    (tmp_path / "nano").mkdir()
    assert resolve_folder("nano") == Path("nano")
    assert resolve_folder(None) == pristine / "score"
    monkeypatch.setattr("codescaler.checkpoint.download.PACKAGED_MODEL", tmp_path / "absent")
    with pytest.raises(WeightsError, match=r"has no model 'nano' \(.*absent holds no config.json\); install a release"):
        resolve_folder(None)


@pytest.mark.parametrize(
    "model",
    [
        "./nowhere",
        "/no/where",
        "~/nowhere",
        "~nobody-here/x",
        "~\0",
        "/" + "a" * 300,
        "../nowhere",
        "a/b/c",
        "",
        Path("nowhere"),
    ],
)
def test_paths_that_do_not_exist_never_reach_the_hub(model, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(WeightsError, match="no such folder"):
        resolve_folder(model)


def test_hub_download_asks_for_data_files_only(monkeypatch, tmp_path):
    from huggingface_hub.utils import filter_repo_objects

    asked = {}

    def download(repo_id, **settings):
        asked.update(settings, repo_id=repo_id)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve_folder("owner/name", revision="v2", local_files_only=True) == tmp_path
    assert (asked["repo_id"], asked["revision"], asked["local_files_only"]) == ("owner/name", "v2", True)
    wanted = [
        "config.json",
        SINGLE,
        INDEX,
        "tokenizer.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
    ]
    refused = [
        "pytorch_model.bin",
        "model.pt",
        "modeling_x.py",
        "x.pkl",
        "onnx/model.onnx",
        "fp8/model.safetensors",
    ]
    patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects(wanted + refused, **patterns)) == wanted


@pytest.mark.parametrize("model", ["owner/absent-model", "bad id!", "owner/name--x", "a" * 300])
def test_hub_failures_name_the_id(model, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"'{model}'.*in the local cache.*hf auth login") as caught:
        resolve_folder(model, local_files_only=True)
    assert isinstance(caught.value, CodescalerError)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("name", [SINGLE, "model.safetensors.index.json", "adapter_config.json"])
@pytest.mark.parametrize("take", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_a_name_that_is_no_file_is_no_absent_file(copy, name, take):
    """Else a folder would be read as one without an adapter, or as one in shards."""
    folder = copy("score")
    if name != "adapter_config.json":
        (folder / SINGLE).unlink()
    take(folder / name)
    with pytest.raises(HostileFile, match=f"{name} is .*, no regular file"):
        open_checkpoint(folder)


def test_a_header_of_many_tensors_is_refused_before_it_is_parsed(copy):
    """Half a million empty tensors would take all memory, and abort the process."""
    code = (
        "import resource, sys; from pathlib import Path; from codescaler.checkpoint.load import open_checkpoint\n"
        "from codescaler.errors import HostileFile\n"
        "taken = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 2**26, resource.RLIM_INFINITY))\n"
        "try: open_checkpoint(Path(sys.argv[1]))\n"
        "except HostileFile as error: print(error)"
    )
    folder = copy("score")
    for num_tensors, said in (
        (200_000, "holds 200001 tensors, above the limit of 65536"),
        (500_000, "its header takes"),
    ):
        entries = (f'"a{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(num_tensors))
        header = f"{{{','.join(entries)}}}".encode()
        (folder / SINGLE).write_bytes(struct.pack("<Q", len(header)) + header)
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
        assert said in done.stdout, done.stderr[-500:]


def test_what_a_header_says_reaches_no_terminal(copy):
    folder = copy("score")
    edit_header(folder / SINGLE, lambda text: text.replace(NORM, "\\u001b[2J"))
    with pytest.raises(CodescalerError, match=r"\\x1b\[2J") as refusal:
        open_checkpoint(folder)
    assert "\x1b" not in str(refusal.value)
    edit_header(folder / SINGLE, lambda text: text.replace("F32", "\\u001b[2J"))
    with pytest.raises(HostileFile) as refusal:
        open_checkpoint(folder)
    assert "\x1b" not in str(refusal.value) and refusal.value.__suppress_context__
