"""Download wheels so that ``python -m benchmarks gpu`` runs on a GPU machine without a network. Not a measurement.

``python -m benchmarks wheels --out DIR`` downloads the packages that the sections import, with all their dependencies,
for Python 3.12 on x86-64 Linux, in the versions of this environment. It leaves out the packages that the machine has,
and their dependencies. On the GPU machine, run::

    python3 -m pip install --no-index --no-deps --target site DIR/*.whl
    PYTHONPATH=site python3 -m benchmarks gpu --minutes 9 --out results
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Collection, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks._turns import Numbers

IMPORTED = (
    "open_clip_torch",
    "timm",
    "transformers",
    "safetensors",
    "pyarrow",
    "pillow",
    "numpy",
    "pydantic",
    "pyyaml",
    "pathspec",
    "braceexpand",
    "isal",
)
"""Distributions that the sections of the GPU benchmark import. ``tests/benchmarks/test_wheels.py`` checks this list."""

PRESENT = ("torch", "torchvision", "numpy", "pyarrow")
"""Packages that the machine has. pyarrow alone is 52 MiB, and the rest would not fit with it."""

UNUSED = {"hf-xet", "typer"}
"""Packages that huggingface_hub needs for downloads and its command line. A machine without a network uses neither."""

PYTHON, LIMIT = "3.12", 64 * 2**20
ENVIRONMENT = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
    "extra": "",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for the wheels, at first empty")
    parser.add_argument("--present", nargs="*", default=list(PRESENT), help="packages that the machine has")


def measure(out: Path, present: list[str]) -> Numbers:
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        sys.exit(f"{out}: is not empty; two versions of a package there would stop the installation")
    wanted = {name: version(name) for name in needed(IMPORTED, present)}
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(39, 16, -1)]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={PYTHON}", "--implementation=cp", *platforms, f"--dest={out}"]
    subprocess.run([*command, *(f"{name}=={number}" for name, number in wanted.items())], check=True)
    return {"wheels": {wheel.name: wheel.stat().st_size for wheel in sorted(out.iterdir())}, "present": present}


def needed(names: Collection[str], present: Collection[str]) -> list[str]:
    """Return ``names`` with all their dependencies, without ``present`` and its dependencies."""
    there = set(_closure(present, set()))
    return sorted(set(_closure(names, there)))


def _closure(names: Collection[str], without: set[str]) -> Iterator[str]:
    seen = without | UNUSED
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen = seen | {name}
        try:
            asked = requires(name) or []
        except PackageNotFoundError:
            continue  # a package for another platform
        yield name
        for text in asked:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(ENVIRONMENT):
                waiting.append(canonicalize_name(requirement.name))


def show(numbers: Numbers) -> str:
    sizes = numbers["wheels"]
    total = sum(sizes.values())
    lines = [f"  {size / 2**20:6.2f} MiB  {name}" for name, size in sorted(sizes.items(), key=lambda each: -each[1])]
    verdict = "within" if holds(numbers) else "ABOVE: name more with --present"
    return "\n".join(
        [
            f"{len(sizes)} wheels for Python {PYTHON} where there are {', '.join(numbers['present'])}",
            *lines,
            f"  {total / 2**20:6.2f} MiB together, {verdict} {LIMIT / 2**20:.0f} MiB",
        ]
    )


def holds(numbers: Numbers) -> bool:
    return int(sum(numbers["wheels"].values())) <= LIMIT
