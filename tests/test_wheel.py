"""The wheel that a user installs, in an environment of its own outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import mobileclip2

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
PACKAGES = {"mobileclip2", "assets", "pipelines"}


def call(*command: str | Path, cwd: Path) -> str:
    """Run a command as in a new shell, without the variables of this environment and without the hub."""
    ours = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}  # each command would compile all packages
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    environment = {**kept, "HF_HUB_OFFLINE": "1", "DAGSTER_HOME": str(cwd / ".dagster")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of this tree, because setuptools leaves files where it builds and reuses them."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(
        ROOT,
        folder / "source",
        ignore=shutil.ignore_patterns(".*", "demo", "build", "checkpoints", "*.egg-info", "__pycache__"),
    )
    build = [UV, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
    call(*build, "--out-dir", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_contains_only_the_packages_and_their_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [message_from_bytes(archive.read(name)) for name in names if name.endswith(".dist-info/METADATA")]
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
    assert metadata["Version"] == mobileclip2.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    kinds = {".css", ".j2", ".py", ".typed", ".yaml"}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {Path(name).suffix for name in expected} == kinds, "package-data must name every kind"
    assert {name for name in names if ".dist-info/" not in name} == expected


@pytest.mark.long
def test_the_wheel_runs_without_the_checkout(wheel, tiny_template, tmp_path, request):
    """The profile and its data are files of the user. The command, the stages and the templates come from the wheel."""
    environment = tmp_path / "environment"
    call(UV, "venv", "--quiet", "--python", request.config.getoption("--python"), environment, cwd=tmp_path)
    install = [UV, "pip", "install", "--quiet", "--python", environment, "--constraint", ROOT / "requirements.lock"]
    call(*install, f"mobileclip2[pipeline] @ {wheel.as_uri()}", cwd=tmp_path)
    work = Path(shutil.copytree(tiny_template, tmp_path / "work"))

    command = environment / "bin" / "mobileclip2"
    assert call(command, "--version", cwd=work) == f"mobileclip2 {mobileclip2.__version__}\n"
    assert "tiny: 4 shards in 2 groups" in call(command, "check", "--profile", "tiny.yaml", cwd=work)
    assert "report: report.html" in call(command, "run", "--profile", "tiny.yaml", cwd=work)
    assert "</html>" in (work / "report.html").read_text()
    where = call(environment / "bin" / "python", "-c", "import pipelines; print(pipelines.__file__)", cwd=work)
    assert Path(where).is_relative_to(environment)

    if request.config.getoption("--python") != sys.executable:  # every Python writes the same bytes
        here = Path(shutil.copytree(tiny_template, tmp_path / "here"))
        call(Path(sys.executable).with_name("mobileclip2"), "run", "--profile", "tiny.yaml", cwd=here)
        assert manifests(work) == manifests(here) and manifests(here)


def manifests(folder: Path) -> dict[Path, bytes]:
    store = folder / "store"
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("manifest.json")}
