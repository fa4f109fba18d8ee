"""Makes a virtual environment with OpenRLHF's reward server, a peer: `python benches install_openrlhf FOLDER`.

OpenRLHF declares packages that need a GPU, so nothing it declares is installed. What its server uses of torch and
transformers is that of this environment. It imports names of flash_attn that a CPU never calls: an empty module has
them.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

# What `python -m openrlhf.cli.serve_rm` imports that this environment may lack.
PACKAGES = (
    *(
        "openrlhf==0.11.2",
        "deepspeed==0.19.8",
        "hjson",
        "py-cpuinfo",
        "einops",
        "pylatexenc",
        "msgpack",
        "ninja",
        "tqdm",
    ),
    *("fastapi==0.136.3", "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "annotated-doc"),
)
FLASH_ATTN = ("bert_padding.py", "utils/distributed.py")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benches install_openrlhf", description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path, help="of the environment; done when FOLDER/.installed is there")
    folder: Path = parser.parse_args().folder
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    environment = os.environ | {"DS_BUILD_OPS": "0"}  # its kernels are for GPUs
    # pydantic asks for one pydantic-core, so pip chooses the two with their requirements; the others come bare.
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "setuptools", "wheel"], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # The packages of this environment, after its own.
    (packages / "codescaler_peers.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    subprocess.run([*command, "--no-build-isolation", *PACKAGES], check=True, env=environment)
    for name in FLASH_ATTN:
        module = packages / "flash_attn" / name
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text("def __getattr__(name):\n    return None\n")
    (folder / ".installed").touch()


if __name__ == "__main__":
    sys.exit(main())
