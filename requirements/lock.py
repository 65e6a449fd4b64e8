"""Write the lock file of one device: `python requirements/lock.py cpu > requirements/cpu.txt`.

pip resolves what pyproject.toml asks for around one pinned set of torch, torchrec and fbgemm. The
latter two enter without their dependencies, because torchrec's metadata names `fbgemm-gpu` even
where `fbgemm-gpu-cpu`, which installs the same files, is the build to use; what else torchrec needs
is listed here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Three equals signs: two would also take a local wheel of 2.13.0+cpu.
TORCH = {"cpu": "torch==2.13.0+cpu", "cuda": "torch===2.13.0"}
WITHOUT_DEPENDENCIES = {
    "cpu": ["fbgemm_gpu-cpu==1.8.0", "torchrec==1.8.0"],
    "cuda": ["fbgemm_gpu==1.8.0", "torchrec==1.8.0"],
}
TORCHREC_NEEDS = ["pyre-extensions", "tensordict", "torchmetrics==1.0.3", "tqdm"]
PIP = [sys.executable, "-m", "pip"]
ROOT = Path(__file__).resolve().parent.parent


def wanted() -> list[str]:
    """The requirements of pyproject.toml, less torch and torchrec, which are pinned above."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = project["dependencies"] + project["optional-dependencies"]["dev"]
    return TORCHREC_NEEDS + [r for r in ranges if not r.startswith("torch")]


def fetch_torch(device: str, folder: str) -> str:
    """Download this device's torch alone, since the CPU builds' index would slow the rest."""
    index = ["--extra-index-url", CPU_INDEX] if device == "cpu" else []
    command = [*PIP, "download", "--quiet", "--no-deps", "--dest", folder, *index, TORCH[device]]
    subprocess.run(command, check=True)
    (wheel,) = Path(folder).glob("torch-*.whl")
    return str(wheel)


def resolve(requirements: list[str]) -> dict[str, str]:
    """Name and version of every package that pip would install for `requirements`."""
    command = [*PIP, "install", "--dry-run", "--quiet", "--ignore-installed", "--report", "-"]
    report = subprocess.run(
        [*command, *requirements], check=True, stdout=subprocess.PIPE, text=True
    )
    return {
        package["metadata"]["name"]: package["metadata"]["version"]
        for package in json.loads(report.stdout)["install"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", choices=sorted(TORCH))
    device = parser.parse_args().device
    if sys.version_info[:2] != (3, 11):
        parser.error("run it with Python 3.11, the oldest supported: later ones resolve too new")
    with tempfile.TemporaryDirectory() as folder:
        packages = resolve([fetch_torch(device, folder), *wanted()])
    del packages["torch"]
    lines = [f"{name}=={version}" for name, version in packages.items()]
    lines += [TORCH[device], *WITHOUT_DEPENDENCIES[device]]
    print(
        f"# Written by requirements/lock.py {device}. Install with pip's --no-deps: `make setup`."
    )
    print("\n".join(sorted(lines, key=str.lower)))


if __name__ == "__main__":
    main()
