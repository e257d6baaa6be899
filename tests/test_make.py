"""``make setup`` uses the newest supported Python that runs. If there is no such Python, it lists what it found."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
SHIM = "echo 'version manager: command not found' >&2; echo 'Install it first.' >&2; exit 127"


@pytest.fixture
def scripts(tmp_path):
    """Return a function that writes shell scripts as commands, and returns an environment whose PATH has only these."""

    def write(**commands: str) -> dict[str, str]:
        for name, line in commands.items():
            script = tmp_path / name.replace("_", ".")
            script.write_text(f"#!/bin/sh\n{line}\n")
            script.chmod(0o755)
        for tool in ("head", "tail"):
            if not (tmp_path / tool).exists():
                (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
        return {"PATH": str(tmp_path)}

    return write


def find(environment: dict[str, str], *candidates: str) -> subprocess.CompletedProcess[str]:
    command = ["/bin/sh", ROOT / ".ci" / "find-python", *candidates]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("commands", "chosen"),
    [
        ({"python3_12": "echo 12", "python3_11": "echo 11"}, "python3.12"),
        ({"python3_13": SHIM, "python3_12": "echo 12", "python3": "echo 12"}, "python3.12"),
        ({"python3_13": SHIM, "python3_11": "echo 11", "python3": "echo 13"}, "python3"),
        ({"python3_11": "echo 'warning: an old locale' >&2; echo 11"}, "python3.11"),
        ({"python": "echo 12"}, "python"),
    ],
)
def test_the_newest_working_python_is_chosen(scripts, commands, chosen):
    found = find(scripts(**commands))
    assert (found.returncode, found.stdout) == (0, f"{chosen}\n"), found.stderr


def test_rejected_interpreters_are_listed(scripts):
    found = find(scripts(python3_13=SHIM, python3="echo 3.10.13 >&2; exit 1"))
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.splitlines()[1:-1] == [
        "  python3.13: version manager: command not found",
        "  python3.12: not on PATH",
        "  python3.11: not on PATH",
        "  python3: 3.10.13",
        "  python: not on PATH",
    ]
    assert "make setup PYTHON=" in found.stderr


def test_a_real_interpreter_is_accepted():
    assert find({"PATH": "/usr/bin:/bin"}, sys.executable).stdout == f"{sys.executable}\n"


def test_versions_match_pyproject_and_the_ci_workflow():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = [minor for minor in range(30) if SpecifierSet(project["requires-python"]).contains(f"3.{minor}.5")]
    script = (ROOT / ".ci" / "find-python").read_text()
    assert f"(3, {supported[0]}) <= sys.version_info[:2] <= (3, {supported[-1]})" in script
    assert " ".join(f"python3.{minor}" for minor in reversed(supported)) in script
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in supported]
