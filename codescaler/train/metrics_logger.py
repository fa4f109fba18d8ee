"""What a run tells its user: a progress bar, the log's curves as a picture, and trackers.

TensorBoard is written to where it is installed; Weights & Biases where it is installed and a run has been begun
(`wandb.init`), since it sends data away.
"""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from codescaler.io.files import open_output

CURVES_FILE = "curves.png"
_CURVES = (
    ("loss", "loss", "Bradley-Terry loss"),
    ("pair_accuracy", "validation_pair_accuracy", "pairs ranked correctly"),
    ("learning_rate", None, "learning rate"),
)


class MetricsLogger:
    """Passes each record on to whoever shows it."""

    def __init__(self, folder: Path, *, first_step: int, num_steps: int, show_progress: bool) -> None:
        self._bar = tqdm(total=num_steps, initial=first_step, unit=" steps", disable=not show_progress)
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What was written after the checkpoint that is resumed from is hidden.
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def show(self, record: Mapping[str, Any]) -> None:
        """Shows one line of the log."""
        step, values = record["step"], {key: value for key, value in record.items() if key not in ("step", "kind")}
        if self._board is not None:
            for key, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{record['kind']}/{key}", value, step)
        wandb = sys.modules.get("wandb")
        if wandb is not None and getattr(wandb, "run", None) is not None:
            wandb.log({f"{record['kind']}/{key}": value for key, value in values.items()}, step=step)
        if record["kind"] == "step":
            self._bar.set_postfix_str(
                f"loss {record['loss']:.3f}, pairs {record['pair_accuracy']:.0%}, margin {record['margin']:+.2f}, "
                f"{record['tokens_per_second']:.0f} tokens/s, {record['mfu']:.0%} MFU",
                refresh=False,
            )
            self._bar.update()
        elif not self._bar.disable:
            self._bar.write(
                f"step {step}: validation pairs {record['validation_pair_accuracy']:.1%}, "
                f"loss {record['validation_loss']:.3f}",
                file=sys.stderr,
            )

    def close(self) -> None:
        """Ends the bar and the trackers' files."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


def draw_curves(log: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draws the log, if matplotlib is installed; says whether it did."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, (key, validation_key, title) in zip(figure.subplots(1, len(_CURVES)), _CURVES, strict=True):
        for name, style, label in ((key, "-", "training"), (validation_key, "o-", "validation")):
            points = [(record["step"], record[name]) for record in log if name is not None and name in record]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label)
        axes.set(title=title, xlabel="step")
        axes.legend()
    with open_output(path, "w") as file:
        figure.savefig(file, dpi=110)
    return True
