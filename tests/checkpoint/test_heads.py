"""Heads by the names of their tensors; and a random checkpoint for each row of docs/models.md."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benches.quality import parity
from benches.quality.parity_cases import CASES, VOCAB, Case, save
from codescaler.checkpoint.heads import HEAD_FORMS, find_head
from codescaler.checkpoint.load import open_checkpoint
from codescaler.engine import Engine
from codescaler.errors import HostileFile, InvalidInput, MissingTensor, ShapeMismatch, UnsupportedModel, WeightsError
from codescaler.testing import (
    FLOAT32_SCORE_LIMIT,
    edit_json,
    edit_tensors,
    save_chat,
    save_random_checkpoint,
    save_random_lora,
    split_value_head,
)
from codescaler.text.chat import load_chat
from codescaler.text.encoder import build_encoder

MODELS_PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "head_dim": 16}
SINGLE = "model.safetensors"


def make_few():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in (1, 9, 70)]


def make_case(family, architecture="SequenceClassification", **fields):
    settings = SMALL | fields.pop("settings", {})
    return Case(family, architecture, "-", settings, make_few, **fields)


SEQUENCE = {family: make_case(family) for family in ("qwen3", "qwen2", "llama", "gemma2", "mistral", "gemma3_text")}
PHI3 = make_case("phi3", settings={"pad_token_id": 0})
LLAMA3 = next(case for case in CASES if case.special == "llama3 RoPE, old config dialect")
CAUSAL = {"architectures": ["Qwen3ForCausalLM"]}
ROW_0 = make_case("llama", "CausalLM", rows=(0,))
YES_MINUS_NO = make_case("qwen3", "CausalLM", rows=(7, 9), settings={"tie_word_embeddings": True})
OPENRLHF = make_case("qwen3", "RewardModel")
FACTORY = make_case("qwen2", "AceCodeRM", form="llamafactory", config_edits={"architectures": ["Qwen2ForCausalLM"]})
LORA = make_case("qwen3", "CausalLM", lora={"task_type": None, "modules_to_save": ["score"]})

# A random checkpoint of the shape of each row that loads.
LOADS = {
    "CodeScaler 1.7B, 4B, 8B": SEQUENCE["qwen3"],
    "Themis-RM 0.6B to 32B": SEQUENCE["qwen3"],
    "Skywork-Reward-V2 Qwen3": SEQUENCE["qwen3"],
    "Skywork-Reward-V2 Llama": dataclasses.replace(LLAMA3, lists=make_few),
    "Skywork-Reward Gemma-2-27B": SEQUENCE["gemma2"],
    "AceCodeRM 7B, 32B": make_case("qwen2", "AceCodeRM"),
    "Qwen-2.5-Nemotron-32B-Reward": SEQUENCE["qwen2"],
    "Qwen-3-Nemotron-32B-Reward": SEQUENCE["qwen3"],
    "Llama-3.1 and 3.3-Nemotron-70B-Reward": ROW_0,
    "Llama-3.1-8B and 70B-Instruct-RM-RB2, Tulu-3-RM-RB2": SEQUENCE["llama"],
    "FsfairX-LLaMA3, OffsetBias-RM, GRM-rewardmodel-ft": SEQUENCE["llama"],
    "Athene-RM 8B, 70B": make_case("llama", "AtheneForSequenceClassification"),
    "RM-Mistral-7B, mistral-7b-gsm8k-code-rm": SEQUENCE["mistral"],
    "InternLM2-reward 1.8B, 7B, 20B": make_case("llama", "AtheneForSequenceClassification", form="internlm2"),
    "INF-ORM-Llama3.1-70B": make_case("llama", "INFORMForSequenceClassification"),
    "Qwen2.5-Math-RM-72B, WorldPM-72B": make_case("qwen2", "Qwen2ForRewardModel"),
    "GRM-sftreg": make_case("llama", "GRewardModel"),
    "AceMath-7B and 72B-RM": SEQUENCE["qwen2"],
    "Eurus-RM-7b": make_case("mistral", "EurusRewardModel"),
    "UltraRM-13b": make_case("llama", "EurusRewardModel", config_edits={"architectures": ["LlamaRewardModel"]}),
    "Qwen3-Reranker 0.6B, 4B, 8B": YES_MINUS_NO,
    "Qwen3-Reranker, converted to sequence classification": SEQUENCE["qwen3"],
    "your own, TRL and transformers": dataclasses.replace(SEQUENCE["qwen3"], config_edits=CAUSAL),
    "your own, OpenRLHF": OPENRLHF,
    "your own, LLaMA-Factory": FACTORY,
    "your own, PEFT": LORA,
    "your own, Gemma3": SEQUENCE["gemma3_text"],
    "your own, Phi-3 and Phi-4": PHI3,
}
ONE = torch.zeros(1, 64)


def make_refused(family, names, config, shape=(19, 64)):
    return family, {name: torch.zeros(shape) for name in names}, config


def make_class(name, model_type=None):
    return {"architectures": [name], "model_type": model_type}


GATING = ["regression_layer.weight", "gating.layers.0.weight", "reward_transform_matrix"]
WITH_GATING = make_class("LlamaForRewardModelWithGating", "llama")
LINEAR_ATTENTION = "layers of linear attention carry a state"
# What makes a checkpoint one of each row that is refused, and what the message has to say.
REFUSED = {
    "ArmoRM-Llama3-8B": (*make_refused("llama", GATING, WITH_GATING), "gating network weighs many outputs"),
    "QRM-Llama3.1-8B, QRM-Gemma-2-27B": (
        *make_refused("gemma2", GATING, make_class("Gemma2ForRewardModelWithGating", "gemma2")),
        "gating network weighs many outputs",
    ),
    "URM-LLaMa-3.1-8B": (*make_refused("llama", GATING[:1], WITH_GATING), "gating network weighs many outputs"),
    "LDL-Reward-Gemma-2-27B": (
        *make_refused("gemma2", [], make_class("LDLRewardModel27B", "gemma2")),
        "distribution of labels",
    ),
    "Qwen2.5-Math-PRM 7B, 72B": (
        *make_refused("qwen2", ["score.0.weight"], make_class("Qwen2ForProcessRewardModel", "qwen2")),
        "process reward model, which scores each step",
    ),
    "Starling-RM-34B": (
        *make_refused("llama", ["v_head.weight"], make_class("LlamaForSequenceClassification", "llama"), (1, 64)),
        "read at a token that comes after the text",
    ),
    "beaver-7b-reward": (
        *make_refused("llama", ["score_head.weight"], make_class("LlamaForScore", "llama")),
        "architecture is 'LlamaForScore'",
    ),
    "Qwen3.5 and Qwen3-Next reward models": (
        *make_refused("qwen3", [], make_class("Qwen3_5ForSequenceClassification", "qwen3_5_text")),
        LINEAR_ATTENTION,
    ),
    "Starling-RM-7B-alpha": ("llama", {}, None, r"pytorch_model\.bin, a pickle"),
}


def read_rows():
    """The models of the page's table, each with its verdict."""
    rows = re.findall(r"^\| (.+?) \| .+ \| (loads|refused)\b", MODELS_PAGE.read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows)) > 30
    return dict(rows)


def test_every_row_of_the_page_has_a_checkpoint():
    rows = read_rows()
    assert [name for name, verdict in rows.items() if verdict == "loads"] == list(LOADS)
    assert [name for name, verdict in rows.items() if verdict == "refused"] == list(REFUSED)


@pytest.fixture(scope="module")
def truths(tmp_path_factory):
    """Returns a function from a case to its folder and transformers' values, made once a case."""
    made = []

    def prepare(case):
        for known, folder, values in made:
            if known == case:
                return folder, values
        folder = tmp_path_factory.mktemp("shape")
        save(case, folder)
        made.append((case, folder, parity.run_transformers(case, folder)))
        return made[-1][1:]

    return prepare


@pytest.mark.parametrize("name", LOADS)
def test_what_loads_has_the_scores_of_public_code(truths, name):
    case = LOADS[name]
    folder, truth = truths(case)
    run = parity.load_scorer(case, case.locate_model(folder))
    together = run(case.lists())
    assert truth.measure_max_error(together) <= FLOAT32_SCORE_LIMIT
    alone = np.concatenate([run([ids]) for ids in case.lists()])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(tmp_path, name):
    family, tensors, config, message = REFUSED[name]
    save_random_checkpoint(tmp_path, family, "CausalLM")
    edit_tensors(tmp_path / SINGLE, lambda stored: stored | tensors)
    if config is None:
        (tmp_path / SINGLE).rename(tmp_path / "pytorch_model.bin")
    else:
        edit_json(tmp_path / "config.json", **config)
    with pytest.raises((UnsupportedModel, MissingTensor), match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name", ["ArmoRM-Llama3-8B", "QRM-Llama3.1-8B, QRM-Gemma-2-27B", "Qwen2.5-Math-PRM 7B, 72B", "Starling-RM-34B"]
)
def test_the_body_of_a_refused_model_gives_features(tmp_path, name):
    family, tensors, config, _ = REFUSED[name]
    save_random_checkpoint(tmp_path, family, "CausalLM")
    plain = Engine.from_pretrained(tmp_path, head="none").features_tokens([[5, 6, 7]])
    edit_tensors(tmp_path / SINGLE, lambda stored: stored | tensors)
    edit_json(tmp_path / "config.json", **config)
    assert np.array_equal(Engine.from_pretrained(tmp_path, head="none").features_tokens([[5, 6, 7]]), plain)


@pytest.mark.parametrize("form", HEAD_FORMS, ids=lambda form: f"{form.kind} {form.key}")
def test_a_form_is_found_by_its_first_tensor(form):
    name = {".*": "Qwen3ForCausalLM", "RewardModel": "RewardModel"}.get(form.classes, "Qwen3ForTokenClassification")
    assert find_head(name, {"model.norm.weight", form.key}) == form


def test_a_head_that_is_promised_and_absent_is_named(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", "CausalLM")
    edit_json(tmp_path / "config.json", architectures=["RewardModel"])
    with pytest.raises(MissingTensor, match=r"value_head\.weight"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("architectures", [["Qwen3ForCausalLM"], ["Qwen3Model"], None])
def test_score_weight_is_a_head_whatever_the_class(tmp_path, architectures):
    save_random_checkpoint(tmp_path, "qwen3")
    expected = Engine.from_pretrained(tmp_path).score_tokens([[5, 6, 0]])
    edit_json(tmp_path / "config.json", architectures=architectures)
    engine = Engine.from_pretrained(tmp_path)
    assert engine.config.head == "sequence_classification"
    assert np.array_equal(engine.score_tokens([[5, 6, 0]]), expected)


def test_the_critic_of_a_training_run_is_no_reward_model(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", "RewardModel")
    edit_json(tmp_path / "config.json", architectures=["CriticModel"])
    with pytest.raises(UnsupportedModel, match=r"CriticModel.*values each token"):
        open_checkpoint(tmp_path)


def test_openrlhf_may_call_its_head_score(tmp_path):
    """It is read at the last token then, a pad token too."""
    save_random_checkpoint(tmp_path, "qwen3")
    edit_json(tmp_path / "config.json", architectures=["RewardModel"])
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.config.head, checkpoint.config.head_input.skips_pads) == ("reward_model", False)


EOS = "<|im_end|>"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ messages[1].content }}<|im_end|>\n", f"code{EOS}"),
        ("{{ messages[1].content }}\n\n", f"code {EOS}"),
        ("{{ messages[1].content }}" + EOS, f"code{EOS}"),
    ],
)
def test_openrlhf_reads_its_head_at_eos(tmp_path, template, text):
    """RewardDataset.__getitem__ of OpenRLHF: newlines at the end go, and EOS comes after a space if it is absent."""
    save_random_checkpoint(tmp_path, "qwen3", "RewardModel", vocab_size=300)
    save_chat(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    encoder = build_encoder(open_checkpoint(tmp_path))
    with pytest.raises(WeightsError, match="name eos_token"):
        encoder.encode_pairs([("p", "code")], ["pair"])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS}))
    encoder = build_encoder(open_checkpoint(tmp_path))
    (ids,), _ = encoder.encode_pairs([("p", "code")], ["pair"])
    (expected,) = load_chat(tmp_path).encode([text])
    assert ids.tolist() == expected.tolist()


def test_the_appended_token_comes_once_and_survives_truncation(tmp_path):
    save_random_checkpoint(tmp_path, "llama", "AtheneForSequenceClassification")
    edit_json(tmp_path / "config.json", reward_token_id=9)
    encoder = build_encoder(open_checkpoint(tmp_path), max_length=3, truncation="left")
    sequences, num_truncated = encoder.encode_tokens([[1], [1, 9], [1, 2, 3, 4], [0]])
    assert [sequence.tolist() for sequence in sequences] == [[1, 9], [1, 9], [3, 4, 9], [0, 9]]
    assert num_truncated == 1


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, UnsupportedModel, "set reward_token_id"),
        ({"reward_token_id": 211}, WeightsError, "reward_token_id is 211; set it to a whole number from 0 to 210"),
        ({"reward_token_id": -1}, WeightsError, "reward_token_id is -1"),
    ],
)
def test_the_appended_token_must_be_known(tmp_path, settings, error, message):
    save_random_checkpoint(tmp_path, "llama", "AtheneForSequenceClassification")
    edit_json(tmp_path / "config.json", **settings)
    with pytest.raises(error, match=message):
        open_checkpoint(tmp_path)


def test_athene_needs_no_setting():
    """128003 is in its code; its config.json does not have it."""
    from codescaler.checkpoint.heads import complete_head
    from codescaler.io.json import Fields

    form = find_head("AtheneForSequenceClassification", {"v_head.weight"})
    assert complete_head(form, Fields({"model_type": "llama"}, ""), 128256).input.appended_id == 128003


@pytest.fixture
def factory(tmp_path):
    """A LoRA adapter and its head as LLaMA-Factory writes them, and the value head alone."""
    save_random_checkpoint(tmp_path / "base", "qwen2", "CausalLM")
    save_random_lora(tmp_path / "adapter", tmp_path / "base", task_type="CAUSAL_LM")
    head = {"v_head.summary.weight": torch.randn(1, 64), "v_head.summary.bias": torch.randn(1)}
    save_file(head, tmp_path / "adapter/value_head.safetensors")
    return tmp_path, head


def test_llama_factory_puts_a_head_beside_an_adapter(factory):
    root, head = factory
    checkpoint = open_checkpoint(root / "adapter")
    assert checkpoint.config.head == "value_head"
    assert torch.equal(checkpoint.read_tensor("head.weight"), head["v_head.summary.weight"])
    ids = [[5, 6, 7]]
    features = torch.from_numpy(Engine.from_pretrained(root / "adapter", head="none").features_tokens(ids))
    expected = features @ head["v_head.summary.weight"].T + head["v_head.summary.bias"]
    ours = torch.from_numpy(Engine.from_pretrained(root / "adapter").score_tokens(ids))
    torch.testing.assert_close(ours, expected[:, 0])


def test_the_head_of_the_adapter_wins_over_that_of_its_base(factory):
    root, head = factory
    save_file({name: tensor + 1 for name, tensor in head.items()}, root / "base/value_head.safetensors")
    ours = open_checkpoint(root / "adapter").read_tensor("head.bias")
    assert torch.equal(ours, head["v_head.summary.bias"])


def test_a_value_head_file_holds_nothing_else(factory):
    root, head = factory
    save_file(head | {"extra.weight": ONE}, root / "adapter/value_head.safetensors")
    with pytest.raises(WeightsError, match=r"value_head\.safetensors: extra\.weight has no role"):
        open_checkpoint(root / "adapter")


def test_a_value_head_file_that_cannot_be_read_is_not_passed_over(factory):
    root, _ = factory
    path = root / "adapter/value_head.safetensors"
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(MissingTensor, match=r"value_head\.safetensors is not there"):
        open_checkpoint(root / "adapter")
    path.rename(root / "adapter/value_head.bin")
    path.with_suffix(".bin").unlink()
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(MissingTensor, match=r"value_head\.bin, a pickle, which is never read"):
        open_checkpoint(root / "adapter")


def test_a_second_head_in_the_model_is_not_left_out(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", "AceCodeRM")
    edit_tensors(tmp_path / SINGLE, lambda stored: stored | {"score.weight": ONE})
    edit_json(tmp_path / "config.json", architectures=["Qwen3ForCausalLM"])
    with pytest.raises(WeightsError, match=r"v_head\.summary\.\w+ has no role.*scores could be others"):
        open_checkpoint(tmp_path)


def test_a_saved_embedding_may_stand_twice_if_it_is_equal(tmp_path):
    save_random_checkpoint(tmp_path / "base", "qwen3", "CausalLM")
    lora = {"task_type": None, "modules_to_save": ["score", "embed_tokens"], "vocab_size": 220}
    save_random_lora(tmp_path / "adapter", tmp_path / "base", **lora)
    path, name = tmp_path / "adapter/adapter_model.safetensors", "base_model.model.model.embed_tokens."
    assert {f"{name}weight", f"{name}modules_to_save.weight", f"{name}original_module.weight"} <= load_file(path).keys()
    checkpoint = open_checkpoint(tmp_path / "adapter")
    assert checkpoint.config.vocab_size == 220
    assert torch.equal(checkpoint.read_tensor("embed_tokens.weight"), load_file(path)[f"{name}weight"])
    edit_tensors(path, lambda stored: stored | {f"{name}weight": stored[f"{name}weight"] * 2})
    with pytest.raises(HostileFile, match="mean the same tensor, and differ"):
        open_checkpoint(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score.2.weight": torch.zeros(2, 33), "score.2.bias": torch.zeros(2)}, "scores 2 labels"),
        ({"score.2.weight": torch.zeros(1, 30)}, r"\(1, 30\).*\(1, 33\)"),
        ({"score.0.weight": torch.zeros(33, 63)}, r"\(33, 63\).*\(33, 64\)"),
        ({"score.0.weight": torch.zeros(0, 64)}, r"score\.0\..*\(1,"),
        ({"score.0.weight": torch.zeros(())}, r"score\.0\..*\(1,"),
    ],
)
def test_an_mlp_of_another_shape(tmp_path, change, message):
    save_random_checkpoint(tmp_path, "qwen2", "Qwen2ForRewardModel")
    edit_tensors(tmp_path / SINGLE, lambda stored: stored | change)
    with pytest.raises(ShapeMismatch, match=message):
        open_checkpoint(tmp_path)


def test_an_mlp_of_three_layers_is_not_read_as_two(tmp_path):
    save_random_checkpoint(tmp_path, "llama", "GRewardModel")
    edit_tensors(tmp_path / SINGLE, lambda stored: stored | {"v_head.summary.4.weight": torch.zeros(1, 33)})
    with pytest.raises(WeightsError, match=r"summary\.4\.weight has no role"):
        open_checkpoint(tmp_path)


@pytest.fixture
def causal(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", "CausalLM", vocab_size=300, tie_word_embeddings=False)
    save_chat(tmp_path)
    return tmp_path


def test_rows_of_the_output_layer_are_named_by_token_or_id(causal):
    rows = load_file(causal / SINGLE)["lm_head.weight"]
    no, yes = (load_chat(causal).tokenizer.token_to_id(token) for token in "ny")
    for tokens, expected in ((["y"], rows[yes]), ([0], rows[0]), (["n", "y"], rows[yes] - rows[no])):
        checkpoint = open_checkpoint(causal, classifier_from_token=tokens)
        assert checkpoint.config.head == "vocabulary_rows"
        assert torch.equal(checkpoint.read_tensor("head.weight")[0], expected)
    edit_json(causal / "config.json", classifier_from_token=["n", "y"])
    assert torch.equal(open_checkpoint(causal).read_tensor("head.weight")[0], rows[yes] - rows[no])


@pytest.mark.parametrize("tokens", [[], ["a", "b", "c"], "no", [None], [True], 3, ["yes please"], [300], [-1]])
def test_what_names_no_rows(causal, tokens):
    with pytest.raises(InvalidInput, match="classifier_from_token"):
        open_checkpoint(causal, classifier_from_token=tokens)


def test_rows_need_an_output_layer_and_no_other_head(causal):
    edit_tensors(causal / SINGLE, lambda stored: {n: t for n, t in stored.items() if n != "lm_head.weight"})
    with pytest.raises(MissingTensor, match=r"no lm_head\.weight"):
        open_checkpoint(causal, classifier_from_token=[0])
    edit_tensors(causal / SINGLE, lambda stored: stored | {"score.weight": ONE})
    with pytest.raises(InvalidInput, match=r"has a head \(score\.weight\)"):
        open_checkpoint(causal, classifier_from_token=[0])
    with pytest.raises(InvalidInput, match="one of the two"):
        Engine.from_pretrained(causal, head="none", classifier_from_token=[0])


def test_capped_logits_are_no_rows(tmp_path):
    save_random_checkpoint(tmp_path, "gemma2", "CausalLM")
    with pytest.raises(UnsupportedModel, match="final_logit_softcapping"):
        open_checkpoint(tmp_path, classifier_from_token=[0])


def test_a_model_without_a_head_says_how_to_name_rows(causal):
    with pytest.raises(MissingTensor, match=r"no reward head.*head='none'.*classifier_from_token"):
        open_checkpoint(causal)


def test_gemma3_wrapped_in_a_model_that_sees(tmp_path):
    save_random_checkpoint(tmp_path, "gemma3_text")
    expected = Engine.from_pretrained(tmp_path).score_tokens([[5, 6, 7]])
    config = json.loads((tmp_path / "config.json").read_text())
    outer = {"architectures": ["Gemma3ForSequenceClassification"], "model_type": "gemma3", "vision_config": {}}
    text = {key: value for key, value in config.items() if key != "architectures"}
    (tmp_path / "config.json").write_text(json.dumps(outer | {"text_config": text}))

    def wrap(stored):
        renamed = {name.replace("model.", "model.language_model."): tensor for name, tensor in stored.items()}
        tower = {"model.vision_tower.layers.0.weight": ONE, "model.multi_modal_projector.norm.weight": ONE + 1}
        return renamed | tower

    edit_tensors(tmp_path / SINGLE, wrap)
    assert np.array_equal(Engine.from_pretrained(tmp_path).score_tokens([[5, 6, 7]]), expected)


@pytest.mark.parametrize("family", ["phi3", "internlm2"])
@pytest.mark.parametrize("rows", [-1, 1])
def test_a_fused_projection_of_another_size(truths, tmp_path, family, rows):
    case = PHI3 if family == "phi3" else LOADS["InternLM2-reward 1.8B, 7B, 20B"]
    source = case.locate_model(truths(case)[0])
    name = f"model.layers.1.{'self_attn.qkv_proj' if family == 'phi3' else 'attention.wqkv'}.weight"
    stored = load_file(source / SINGLE)
    save_file(stored | {name: torch.zeros(len(stored[name]) + rows, 64)}, tmp_path / SINGLE)
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    with pytest.raises(ShapeMismatch, match=r"asks for 128 rows"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("rope", [{"type": "longrope", "short_factor": [1.0] * 8}, {"type": "dynamic", "factor": 2.0}])
def test_no_more_positions_than_the_rope_is_for(tmp_path, rope):
    save_random_checkpoint(tmp_path, "phi3", pad_token_id=0)
    edit_json(tmp_path / "config.json", rope_parameters=None, rope_theta=1e4, rope_scaling=rope)
    assert Engine.from_pretrained(tmp_path).max_length == 512
    with pytest.raises(InvalidInput, match="max_length=513; this model's RoPE"):
        Engine.from_pretrained(tmp_path, max_length=513)


def test_a_missing_index_is_called_that(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", max_shard_size="100KB")
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(MissingTensor, match=r"shards, such as model-00001-of-.*no model\.safetensors\.index\.json"):
        open_checkpoint(tmp_path)


def test_split_value_head_moves_the_head(tmp_path):
    save_random_checkpoint(tmp_path, "qwen2", "AceCodeRM")
    split_value_head(tmp_path)
    assert load_file(tmp_path / "value_head.safetensors").keys() == {"v_head.summary.weight", "v_head.summary.bias"}


def test_the_page_s_prompt_for_qwen3_reranker_is_its_card_s(tmp_path):
    """The card's prefix, <Instruct>, <Query>, <Document> and suffix, for a problem and a program."""
    (template,) = re.findall(r"```jinja\n(.*?)```", MODELS_PAGE.read_text(), re.DOTALL)
    save_chat(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    text = load_chat(tmp_path).render([{"role": "user", "content": "p\n"}, {"role": "assistant", "content": " c\n"}])
    assert text == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        "<Instruct>: Given a programming problem, retrieve a program that solves it\n<Query>: p\n\n<Document>:  c\n"
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
