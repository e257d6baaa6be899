"""Rules that no linter holds: nothing is unpickled, and loading the definitions is cheap."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_nothing_read_is_unpickled():
    forbidden = ("allow_pickle=True", "weights_only=False", "pickle.load", "yaml.load(", "yaml.unsafe_load")
    sources = [path for name in ("mobileclip2", "assets", "pipelines", "demo") for path in (ROOT / name).rglob("*.py")]
    assert not [(path.name, word) for path in sources for word in forbidden if word in path.read_text()]


def test_loading_the_definitions_loads_no_torch():
    code = "import sys, pipelines.definitions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
