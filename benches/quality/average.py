"""The mean of two models' weights: `python benches average FIRST SECOND OUT`.

Both are folders with all their weights and the same tensors, the second trained on from the first or from the same
start, such as `codescaler prune --layers` writes of a LoRA folder. Means are taken and stored in float32. All other
files are those of the first.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from codescaler.checkpoint.save import new_folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benches average", description=__doc__.partition("\n\n")[0])
    for name in ("first", "second", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    average_weights(options.first, options.second, options.out)
    print(f"{options.out}: the mean of {options.first} and {options.second}")


def average_weights(first: Path, second: Path, out: Path) -> None:
    """Writes the folder `out`.

    Raises: ValueError if a tensor is in one of them alone, or has another shape there. InvalidInput if `out` exists.
    """
    ours, theirs = _load_weights(first), _load_weights(second)
    shapes = [{name: tuple(tensor.shape) for name, tensor in weights.items()} for weights in (ours, theirs)]
    if shapes[0] != shapes[1]:
        names = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        raise ValueError(
            f"{first} and {second} differ in the shape of {', '.join(names[:3])}; give models of one shape"
        )
    means = {name: (tensor.float() + theirs[name].float()) / 2 for name, tensor in ours.items()}
    with new_folder(out) as folder:
        for path in first.iterdir():
            if not path.name.startswith("model"):
                shutil.copy(path, folder / path.name)
        save_file(means, folder / "model.safetensors", {"format": "pt"})


def _load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder."""
    weights = {
        name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()
    }
    if not weights:
        raise ValueError(f"{folder} holds no *.safetensors; merge a LoRA folder with `codescaler prune --layers`")
    return weights


if __name__ == "__main__":
    main()
