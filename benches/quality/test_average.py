"""The mean of two models: weights, files beside them, and models that do not fit together."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from benches.quality.average import average_weights
from codescaler.errors import InvalidInput


def save(folder, weights):
    folder.mkdir()
    for number, (name, tensor) in enumerate(weights.items()):
        save_file({name: tensor}, folder / f"model-0000{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / "config.json").write_text(f'"{folder.name}"')
    return folder


def test_each_weight_is_the_mean_and_other_files_are_the_first_s(tmp_path):
    first = save(tmp_path / "a", {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([[3.0]], dtype=torch.bfloat16)})
    second = save(tmp_path / "b", {"y": torch.tensor([[6.0]], dtype=torch.bfloat16), "x": torch.tensor([2.0, -2.0])})
    average_weights(first, second, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    means = load_file(tmp_path / "out/model.safetensors")
    assert {name: tensor.tolist() for name, tensor in means.items()} == {"x": [1.5, 0.0], "y": [[4.5]]}
    assert (tmp_path / "out/config.json").read_text() == '"a"'
    with pytest.raises(InvalidInput, match="is there already; give a new folder"):
        average_weights(first, second, tmp_path / "out")


def test_models_of_other_shapes_are_refused(tmp_path):
    first = save(tmp_path / "a", {"x": torch.ones(2), "y": torch.ones(1)})
    second = save(tmp_path / "b", {"x": torch.ones(2), "y": torch.ones(2), "z": torch.ones(1)})
    with pytest.raises(ValueError, match="differ in the shape of y, z; give models of one shape"):
        average_weights(first, second, tmp_path / "out")
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ValueError, match=r"adapter holds no \*.safetensors; merge"):
        average_weights(first, tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()
