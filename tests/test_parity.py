"""A share of `python -m benches.quality.parity`: our scores are those of transformers, and a difference would show."""

import dataclasses
import math
import shutil

import pytest

from benches.quality import parity
from benches.quality.parity_cases import CASES, save
from codescaler.ops import cpu
from codescaler.testing import edit_json, edit_tensors

CASES_BY_NAME = {case.name: case for case in CASES}

# One of each family and head, and of what is special, as far as it is small.
NAMES = (
    "qwen3 sequence: pad tokens",
    "qwen3 sequence: pad == eos",
    "qwen3 sequence: LoRA everywhere, rank and alpha patterns",
    "qwen3 token: pad tokens are scored",
    "qwen3_moe sequence: layer 1 dense, pad tokens",
    "qwen3_moe token: experts in every second layer, biases",
    "qwen2 sequence: width 448, old config dialect",
    "qwen2 token: window 64 from layer 1 on",
    "qwen2 value: AceCodeRM, tied, eps 0.01, old config dialect",
    "llama sequence: llama3 RoPE, old config dialect",
    "llama sequence: rank-stabilised LoRA on a causal LM",
    "llama none: features, tied",
    "gemma2 sequence: old config dialect",
    "gemma2 token: window 64",
    "mistral sequence: no window, old config dialect, pad tokens",
    "gemma3_text sequence: linear RoPE of full layers, old config dialect",
    "phi3 sequence: longrope, 3/4 of a head turns",
    "llama mlp: score.0 and score.2 of INFORM",
    "llama appended: InternLM2: fused wqkv, its own names",
    "qwen3 rows: one row of a tied embedding minus another",
    "qwen2 value: LLaMA-Factory: head in a file of its own",
    "qwen3 sequence: LoRA for features, 8 tokens more, embedding written twice",
)
PADS, _, LORA, TOKEN, MIXED, _, _, WINDOW, VALUE, LLAMA3, RSLORA, _, GEMMA2, _ = NAMES[:14]
MISTRAL, GEMMA3, PHI3, MLP, INTERNLM2 = NAMES[14:19]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Returns a function from a case's name to the case, the folder it is saved in and its truth, made once."""
    made = {}

    def prepare(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("case")
            case = CASES_BY_NAME[name]
            save(case, folder)
            made[name] = case, folder, parity.run_transformers(case, folder)
        return made[name]

    return prepare


@pytest.mark.parametrize("isa", cpu.list_supported_isas())
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_transformers(prepared, monkeypatch, name, isa):
    monkeypatch.setenv("CODESCALER_CPU_ISA", isa)
    case, folder, truth = prepared(name)
    row = parity.compare(case, case.locate_model(folder), truth, backend="cpu")
    assert row.ok, row


@pytest.mark.parametrize("name", NAMES)
def test_reference_scores_are_those_of_transformers(prepared, name):
    case, folder, truth = prepared(name)
    row = parity.compare(case, case.locate_model(folder), truth, backend="reference")
    assert row.is_close, row


CONFIG, ADAPTER = "base/config.json", "adapter/adapter_config.json"
LONGROPE = CASES_BY_NAME[PHI3].settings["rope_parameters"]
SCALING = CASES_BY_NAME[LLAMA3].config_edits["rope_scaling"]


@pytest.mark.parametrize(
    ("name", "file", "wrong"),
    [
        (PADS, CONFIG, {"pad_token_id": None}),
        (LORA, ADAPTER, {"lora_alpha": 9}),
        (LORA, ADAPTER, {"alpha_pattern": None}),
        (RSLORA, ADAPTER, {"use_rslora": False}),
        (WINDOW, CONFIG, {"sliding_window": 63}),
        (WINDOW, CONFIG, {"layer_types": ["sliding_attention"] * 3}),
        (MIXED, CONFIG, {"norm_topk_prob": False}),
        (MIXED, CONFIG, {"num_experts_per_tok": 3}),
        (VALUE, CONFIG, {"rope_theta": 1.1e6}),
        (VALUE, CONFIG, {"rms_norm_eps": 0.011}),
        (LLAMA3, CONFIG, {"rope_theta": 5.1e5}),
        (LLAMA3, CONFIG, {"rope_scaling": None}),
        (LLAMA3, CONFIG, {"rope_scaling": SCALING | {"factor": 9.0}}),
        (LLAMA3, CONFIG, {"rope_scaling": SCALING | {"low_freq_factor": 1.1}}),
        (LLAMA3, CONFIG, {"rope_scaling": SCALING | {"high_freq_factor": 4.5}}),
        (LLAMA3, CONFIG, {"rope_scaling": SCALING | {"original_max_position_embeddings": 1100}}),
        (GEMMA2, CONFIG, {"sliding_window": 63}),
        (GEMMA2, CONFIG, {"sliding_window": 4096}),
        (GEMMA2, CONFIG, {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
        (GEMMA2, CONFIG, {"attn_logit_softcapping": 5.1}),
        (GEMMA2, CONFIG, {"query_pre_attn_scalar": 49}),
        (GEMMA2, CONFIG, {"hidden_activation": "silu"}),
        (MISTRAL, CONFIG, {"rope_theta": 1.1e6}),
        (MISTRAL, CONFIG, {"sliding_window": 20}),
        (GEMMA3, CONFIG, {"rope_theta": 1.2e6}),
        (GEMMA3, CONFIG, {"rope_local_base_freq": 1.2e4}),
        (GEMMA3, CONFIG, {"rope_scaling": {"rope_type": "linear", "factor": 7.0}}),
        (GEMMA3, CONFIG, {"sliding_window": 63}),
        (GEMMA3, CONFIG, {"sliding_window_pattern": 3}),
        (GEMMA3, CONFIG, {"query_pre_attn_scalar": 49}),
        (PHI3, CONFIG, {"rope_parameters": LONGROPE | {"rope_theta": 1.1e4}}),
        (PHI3, CONFIG, {"rope_parameters": LONGROPE | {"short_factor": LONGROPE["short_factor"][::-1]}}),
        (PHI3, CONFIG, {"rope_parameters": LONGROPE | {"attention_factor": 1.0}}),
        (INTERNLM2, "internlm2/config.json", {"reward_token_id": 996}),
        (INTERNLM2, "internlm2/config.json", {"rope_theta": 1.1e6}),
    ],
)
def test_a_wrong_setting_is_noticed(prepared, tmp_path, name, file, wrong):
    case, folder, truth = prepared(name)
    copy = shutil.copytree(folder, tmp_path / "copy")
    edit_json(copy / file, **wrong)
    scores = parity.load_scorer(case, case.locate_model(copy))(case.lists())
    assert truth.measure_max_error(scores) > 10 * parity.FLOAT32_SCORE_LIMIT


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        (TOKEN, "score.bias"),
        (VALUE, "v_head.summary.bias"),
        (VALUE, "model.layers.1.self_attn.k_proj.bias"),
        (PADS, "model.layers.2.self_attn.k_norm.weight"),
        (MIXED, "model.layers.0.mlp.gate.weight"),
        (MIXED, "model.layers.0.mlp.experts.15.down_proj.weight"),
        (GEMMA2, "model.layers.1.post_feedforward_layernorm.weight"),
        (GEMMA3, "model.layers.1.self_attn.q_norm.weight"),
        (MLP, "score.0.weight"),
    ],
)
def test_a_wrong_tensor_is_noticed(prepared, tmp_path, name, tensor):
    case, folder, truth = prepared(name)
    copy = shutil.copytree(folder, tmp_path / "copy")
    edit_tensors(copy / "base/model.safetensors", lambda tensors: tensors | {tensor: tensors[tensor] * 0.9})
    scores = parity.load_scorer(case, case.locate_model(copy))(case.lists())
    assert truth.measure_max_error(scores) > 10 * parity.FLOAT32_SCORE_LIMIT


@pytest.mark.parametrize(
    "wrong",
    [{"fp32_max": math.nan}, {"bf16_rms": math.nan}, {"bf16_rms": 0.03}, {"is_batch_exact": False}],
    ids=str,
)
def test_a_row_fails_on_any_one_fault(wrong):
    good = parity.Row("qwen3", "token", "-", 1, 1.0, 1.0, 1e-6, 0.01, 0.01, 0.021, is_batch_exact=True)
    assert good.ok
    assert not dataclasses.replace(good, **wrong).ok


def test_command_prints_a_table_and_fails_with_a_case(monkeypatch, capsys):
    only = ["--only", "qwen3 sequence: pad =="]
    assert parity.main(only) == 0
    assert "1 of 1 cases hold" in capsys.readouterr().out
    monkeypatch.setattr(parity, "FLOAT32_SCORE_LIMIT", 0.0)
    assert parity.main(only) == 1
    assert "0 of 1 cases hold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(["--only", "no such case"], "no case has"), (["--only", "qwen3", "--save"], "whole table")],
)
def test_command_refuses_to_prove_nothing_or_to_save_a_part(capsys, arguments, why):
    with pytest.raises(SystemExit, match="2"):
        parity.main(arguments)
    assert why in capsys.readouterr().err
