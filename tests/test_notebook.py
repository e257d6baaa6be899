"""The example notebook runs all steps from pictures to an exported model."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from demo.tars import write_tar
from tests.notebook import cells

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "pictures_to_model.ipynb"
PICTURES = 80


def test_the_notebook_is_stored_without_outputs():
    content = json.loads(NOTEBOOK.read_text())
    assert (content["nbformat"], content["metadata"]["kernelspec"]["name"]) == (4, "python3")
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])


def test_the_notebook_contains_every_step():
    code = "\n".join(cells(NOTEBOOK))
    for step in (
        "import photos/",
        "init --images",
        ".check()",
        ".plan(",
        ".run(",
        ".read(",
        ".rank(",
        "search ",
        "export ",
    ):
        assert step in code
    for source in cells(NOTEBOOK):
        if not source.startswith("!"):
            ast.parse(source)


@pytest.fixture
def checkout(tmp_path):
    """Return a folder that has less data than a checkout: a part of the pictures, and a smaller evaluation set."""
    with tarfile.open(ROOT / "demo" / "shards" / "00000.tar") as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar.getmembers()[: 3 * PICTURES]]
    demo = tmp_path / "checkout" / "demo"
    write_tar(demo / "shards" / "00000.tar", members)
    shutil.copytree(ROOT / "demo" / "evaluation" / "emoji-unseen-200", demo / "evaluation" / "emoji-seen-661")
    return demo.parent


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it takes a minute on two free cores, but other tests share them
def test_the_notebook_runs(checkout, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MOBILECLIP2_CACHE": str(tmp_path / "cache")}
    environment |= {"TMPDIR": str(tmp_path), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("MOBILECLIP2_PROFILE", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.notebook", str(NOTEBOOK)],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{PICTURES} samples from" in done.stdout and "'acc1'" in done.stdout and "image.onnx" in done.stdout
    (page,) = tmp_path.rglob("search.html")
    assert page.read_text().count("<img") == 10
    assert not list(checkout.glob("search.html"))
