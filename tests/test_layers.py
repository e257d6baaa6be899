"""Rules that linters do not check: readers of tensors do not unpickle, and loading the definitions is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

SAFE = {"allow_pickle": False, "weights_only": True}
"""argument of numpy's and torch's readers -> the value under which they do not unpickle, which is also their default"""


def test_no_call_lets_numpy_or_torch_unpickle():
    sources = [path for name in ("mobileclip2", "assets", "pipelines", "demo") for path in (ROOT / name).rglob("*.py")]
    found = [
        (path.relative_to(ROOT).as_posix(), argument.value.lineno, argument.arg)
        for path in sources
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        for argument in call.keywords
        if argument.arg in SAFE
        and not (isinstance(argument.value, ast.Constant) and argument.value.value is SAFE[argument.arg])
    ]
    assert sources
    assert not found


def test_loading_the_definitions_does_not_import_torch():
    code = "import sys, pipelines.definitions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
