"""The size of the library and of each extra, installed alone into an empty environment with requirements.lock.

Bytecode is not counted. It is made later, and adds about a tenth to the packages other than torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from benchmarks._turns import Numbers

ROOT = Path(__file__).parents[1]
UV = str(Path(sys.executable).with_name("uv"))
TORCH = ("torch", "torchvision", "torchgen", "functorch", "nvidia", "triton", "cuda")


def measure() -> Numbers:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = ["--constraint", str(ROOT / "requirements.lock"), "--editable"]
    sizes = {"the library": size(*locked, str(ROOT))}
    sizes |= {f"[{extra}]": size(*locked, f"{ROOT}[{extra}]") for extra in project["optional-dependencies"]}
    sizes["DVC, by itself"] = size("--requirements", str(ROOT / "requirements-dvc.lock"))
    return {"python": "{}.{}".format(*sys.version_info), "sizes": sizes}


def size(*arguments: str) -> dict[str, int]:
    """Return the packages and bytes of an environment into which uv installs the given requirements."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "environment"
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, str(environment)], check=True)
        subprocess.run([UV, "pip", "install", "--quiet", "--python", str(environment), *arguments], check=True)
        listed = [UV, "pip", "list", "--quiet", "--python", str(environment), "--format", "json"]
        packages = json.loads(subprocess.run(listed, check=True, capture_output=True).stdout)
        (site,) = environment.glob("lib/python*/site-packages")
        every = {path.name: bytes_of(path) for path in site.iterdir()}
        return {
            "packages": len(packages),
            "bytes": bytes_of(environment),
            "torch_bytes": sum(count for name, count in every.items() if name.partition("-")[0] in TORCH),
        }


def bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def show(numbers: Numbers) -> str:
    lines = [f"{'Python ' + numbers['python']:20} {'packages':>9} {'all MB':>8} {'without torch and CUDA':>23}"]
    for name, found in numbers["sizes"].items():
        rest = found["bytes"] - found["torch_bytes"]
        lines.append(f"{name:20} {found['packages']:9} {found['bytes'] / 1e6:8,.0f} {rest / 1e6:23,.0f}")
    return "\n".join(lines)
