"""The tests mirror the source tree: the tests of ``mobileclip2/data/tar.py`` are in ``tests/mobileclip2/data/test_tar.py``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mobileclip2", "assets", "pipelines")
MODULES = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py")) if path.name != "__init__.py"]

ACROSS_MODULES = {
    "mobileclip2/data/test_declared_sizes.py": "reads headers that declare more than the file has",
    "mobileclip2/engine/test_damage.py": "damages each kind of file of a finished store",
    "mobileclip2/engine/test_determinism.py": "compares the bytes of other surroundings and processors",
    "mobileclip2/engine/test_recovery.py": "kills the whole graph at any moment",
    "mobileclip2/evaluation/test_clip_benchmark.py": "compares all metrics with those of clip-benchmark",
    "mobileclip2/evaluation/test_evaluation_tasks.py": "evaluates each task of the suite in its published layout",
    "mobileclip2/executors/test_dagster.py": "runs the whole graph on Kubernetes from Dagster's API",
    "mobileclip2/executors/test_disruptions.py": "loses pods, nodes and runs of a training on Kubernetes",
    "mobileclip2/executors/test_fake_cluster.py": "tests that the fake cluster behaves as a real one",
    "mobileclip2/executors/test_throttled.py": "runs a group on Kubernetes with a throttled bucket",
    "mobileclip2/models/test_round_trip.py": "stores and reads every tower family and tokenizer of open_clip",
    "mobileclip2/store/test_full_disk.py": "runs every stage on a full disk",
    "mobileclip2/api/test_python_page.py": "runs the examples of docs/python.md",
    "mobileclip2/stages/test_changed_sources.py": "changes a source after the plan and while each stage reads it",
    "mobileclip2/store/test_s3_faults.py": "reads, writes and locks in a bucket with faults",
    "mobileclip2/store/test_s3_graph.py": "runs the whole graph in a bucket with faults",
    "mobileclip2/teachers/test_towers.py": "builds locked teachers from towers of several families",
    "pipelines/test_dg.py": "runs Dagster's own command line",
    "pipelines/test_fine_tune.py": "follows docs/fine-tune.md",
    "pipelines/test_own_pictures.py": "follows a new user from pictures to a search page",
    "pipelines/test_postgres.py": "records a refresh in PostgreSQL",
    "pipelines/test_whole_profiles.py": "runs the profiles of the documentation",
}
"""test files without a module of their name, and what they test"""


def mirror(module: Path) -> Path:
    """Return the path of the tests of a module."""
    relative = module.relative_to(ROOT)
    return ROOT / "tests" / relative.with_name(f"test_{relative.name}")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_has_tests(module: Path) -> None:
    tests = mirror(module)
    assert tests.exists(), f"write {tests.relative_to(ROOT)} with a test of what the module promises"
    assert "def test_" in tests.read_text()


def test_every_test_file_has_a_module_or_a_reason() -> None:
    mirrored = {mirror(module) for module in MODULES}
    found = {path for name in PACKAGES for path in (ROOT / "tests" / name).rglob("test_*.py")}
    others = {path.relative_to(ROOT / "tests").as_posix() for path in found - mirrored}
    assert others == set(ACROSS_MODULES)


def test_names_of_tests_are_short() -> None:
    names = re.findall(r"def test_(\w+)", "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py")))
    assert len(names) > 1000
    assert not [name for name in names if name.count("_") >= 12]
