"""What users call: names and defaults that cannot change unnoticed."""

import inspect
import pkgutil
import subprocess
import sys

import pytest

import codescaler
from codescaler import errors
from codescaler.engine import Engine

PUBLIC = [
    "Client",
    "Engine",
    "RankedCandidate",
    "RewardFunction",
    "RewardMonitor",
    "TrainConfig",
    "errors",
    "extract",
    "shaped_reward",
    "train",
]


def test_public_names():
    assert codescaler.__all__ == PUBLIC
    assert set(dir(codescaler)) >= set(PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'Engines'; its public names are Client, Engine, "):
        codescaler.Engines  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name):
    """The docstring is the name's own, and its first line is a sentence or a heading."""
    documented = vars(getattr(codescaler, name)).get("__doc__") or getattr(codescaler, name).__doc__
    assert documented and documented.split("\n")[0].endswith((".", ":"))
    assert not documented.startswith(f"{name}(")  # what a dataclass writes by itself


@pytest.mark.parametrize("name", [*PUBLIC, "__version__"])
def test_a_public_name_can_be_imported_first(name):
    loaded = modules_after(f"from codescaler import {name}")
    assert ("torch" in loaded) == (name == "Engine")


@pytest.mark.parametrize(
    "before, after",
    [
        ("", "gc.get_stats()[2]['collections'] == 0 and gc.isenabled() and not gc.get_freeze_count()"),
        ("gc.disable()", "not gc.isenabled()"),
        ("gc.freeze()", "gc.isenabled() and gc.get_freeze_count() > 0"),
    ],
    ids=["as it is", "off", "frozen"],
)
def test_the_garbage_collector_rests_while_torch_is_loaded(before, after):
    code = f"import gc; {before}\nfrom codescaler import Engine\nassert {after}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_from_pretrained_arguments():
    parameters = inspect.signature(Engine.from_pretrained).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "model": None, "device": "auto", "dtype": "auto", "quantization": None, "backend": "auto",
        "num_threads": None, "max_batch_tokens": None, "pooling": "hf", "truncation": "error", "max_length": None,
        "system": None, "control_tokens": None, "chat_template": None, "bos": "tokenizer",
        "head": "required", "scorer": "reward", "base_model": None, "deterministic": False,
        "cuda_graphs": False, "prefix_memory_bytes": None, "classifier_from_token": None,
        "revision": None, "local_files_only": False,
    }  # fmt: skip
    assert [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY] == ["model"]


def test_every_error_is_a_codescaler_error():
    tree = {
        name: value.__mro__[1].__name__
        for name, value in vars(errors).items()
        if isinstance(value, type) and name != "CodescalerError"
    }
    assert tree == {
        "InvalidInput": "CodescalerError",
        "WeightsError": "CodescalerError",
        "MissingTensor": "WeightsError",
        "SettingsMismatch": "WeightsError",
        "ShapeMismatch": "WeightsError",
        "HostileFile": "WeightsError",
        "UnsupportedModel": "CodescalerError",
        "TrainingDiverged": "CodescalerError",
        "BackendUnavailable": "CodescalerError",
        "SandboxUnavailable": "CodescalerError",
        "OutputUnavailable": "CodescalerError",
        "EndpointUnavailable": "CodescalerError",
        "CapacityExceeded": "CodescalerError",
        "DeadlineExceeded": "CodescalerError",
    }


def test_training_arguments():
    from codescaler import train

    assert set(train.__all__) >= {"TrainConfig", "fit", "fit_head", "bradley_terry_loss"}
    assert [*inspect.signature(train.bradley_terry_loss).parameters] == [
        "scores", "labels", "group_offsets", "margins", "center_coefficient"
    ]  # fmt: skip
    assert [*inspect.signature(train.fit).parameters][:5] == ["model", "groups", "output_dir", "config", "validation"]


def test_no_module_of_training_replaces_a_public_name():
    """An import of `codescaler.train.x` sets the attribute `x` of the package, also where `x` is a public function."""
    from codescaler import train

    assert not {info.name for info in pkgutil.iter_modules(train.__path__)} & set(train.__all__)
    assert all(getattr(train, name).__doc__ for name in train.__all__)


def modules_after(statement):
    code = f"{statement}; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_the_engine_imports_no_transformers():
    loaded = modules_after("import codescaler.engine")
    assert "torch" in loaded
    assert not loaded & {"transformers", "peft", "huggingface_hub", "triton", "tokenizers", "jinja2"}


def test_the_engine_imports_neither_training_nor_quantization():
    loaded = modules_after("from codescaler.engine import Engine")
    assert "codescaler.engine.engine" in loaded
    assert not {m for m in loaded if m.startswith("codescaler.train")}
    assert not loaded & {"codescaler.quantize.sensitivity", "codescaler.checkpoint.save", "codescaler.ops.autograd"}


def test_importing_the_package_imports_nothing_heavy():
    assert not modules_after("import codescaler") & {"torch", "numpy"}
    assert codescaler.__version__
