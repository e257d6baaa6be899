"""The rules that keep the project one thing: imports run one way, and what Dagster loads is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {"mobileclip2": {"dagster", "assets", "pipelines"}, "assets": {"pipelines"}}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(path): imported(path) & FORBIDDEN[package] for path in files if imported(path) & FORBIDDEN[package]}
    assert not wrong


def test_nothing_read_is_unpickled():
    forbidden = ("allow_pickle=True", "weights_only=False", "pickle.load", "yaml.load(", "yaml.unsafe_load")
    sources = [path for name in ("mobileclip2", "assets", "pipelines", "demo") for path in (ROOT / name).rglob("*.py")]
    assert not [(path.name, word) for path in sources for word in forbidden if word in path.read_text()]


def test_loading_the_definitions_loads_no_torch():
    code = "import sys, pipelines.definitions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
