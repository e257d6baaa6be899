"""End real processes with real signals, in every phase of a command."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import InProcessExecutor, Pipeline

ROOT = Path(__file__).parents[2]
PROLOGUE = """
import os, sys, time
from pathlib import Path
def meet(*_, **__):
    # every process that comes by writes its number, then waits for its end
    (Path(os.environ["MEET"]) / str(os.getpid())).touch()
    number = int(os.environ.get("KILL_MYSELF", "0"))
    if number:
        os.kill(os.getpid(), number)
    time.sleep(600)
"""
IMPORT = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "dagster":
            meet()
sys.meta_path.insert(0, Finder())
"""
MOMENTS = {
    "importing": IMPORT,
    "reading": "import mobileclip2.config.profile\nmobileclip2.config.profile.load = meet",
    "planning": "import mobileclip2.engine.plan\nmobileclip2.engine.plan.selected = meet",
    "hashing": "import mobileclip2.engine.source_inventory\nmobileclip2.engine.source_inventory.file_sha256 = meet",
    "stage": "import mobileclip2.engine.pipeline\nmobileclip2.engine.pipeline.InProcessExecutor.run = meet",
    "report": "import pipelines.run\nimport mobileclip2.report.gather\nmobileclip2.report.gather.gather = meet",
    # This stands for a library that swallows the interrupt, or for native code that never returns to Python.
    "deaf": """
import mobileclip2.engine.pipeline
def deaf(*_):
    while True:
        try:
            meet()
        except BaseException:
            pass
mobileclip2.engine.pipeline.InProcessExecutor.run = deaf
""",
}
START_SECONDS = 300


class Command:
    """``mobileclip2`` as a user starts it, after the code ``before`` that blocks one of its phases."""

    def __init__(self, folder: Path, profile: Path, before: str, *arguments: str, **environment: str) -> None:
        self.met = folder / "met"
        self.met.mkdir(exist_ok=True)
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(folder / "dagster"),
            "MOBILECLIP2_CACHE": str(folder / "cache"),
            "MEET": str(self.met),
            **environment,
        }
        code = f"{PROLOGUE}\n{before}\nfrom pipelines.cli import main\nsys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments, "--profile", str(profile)],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def meet(self, count: int = 1) -> list[int]:
        """Wait until ``count`` processes have called ``meet``, and return their process ids."""
        until = time.monotonic() + START_SECONDS
        while len(found := list(self.met.iterdir())) < count:
            assert self.process.poll() is None and time.monotonic() < until, self.process.communicate()
            time.sleep(0.05)
        return [int(path.name) for path in found]

    def end(self) -> tuple[int, str]:
        """Wait for the process, and return its exit status and its stderr."""
        _, errors = self.process.communicate(timeout=START_SECONDS)
        return self.process.returncode, errors


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def statuses(folder: Path) -> list[dg.DagsterRunStatus]:
    if not (folder / "dagster").exists():
        return []
    with dg.DagsterInstance.from_config(str(folder / "dagster")) as instance:
        return [run.status for run in instance.get_runs()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number"),
    [*((moment, signal.SIGINT) for moment in MOMENTS if moment != "deaf"), ("stage", signal.SIGTERM)],
)
def test_a_stopped_command_prints_one_line(smallest, tmp_path, moment, number):
    command = Command(tmp_path, smallest, MOMENTS[moment], "run")
    (child,) = command.meet()
    command.process.send_signal(number)
    status, errors = command.end()
    lines = [line for line in errors.splitlines() if not line.startswith(("[", "computed "))]
    assert status == 128 + number
    assert len(lines) == 1 and lines[0].startswith("mobileclip2: stopped by "), errors
    assert "kept, run the same command again to continue" in lines[0]
    assert not is_alive(child)
    if moment == "stage":
        assert "in raw_shards [g00]" in lines[0]
        assert statuses(tmp_path) == [dg.DagsterRunStatus.CANCELED]
    assert dg.DagsterRunStatus.STARTED not in statuses(tmp_path)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_an_unresponsive_command(smallest, tmp_path):
    command = Command(tmp_path, smallest, MOMENTS["deaf"], "run")
    (child,) = command.meet()
    command.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    command.process.send_signal(signal.SIGINT)
    status, errors = command.end()
    assert status == 130 and len(errors.splitlines()) == 1 and "Traceback" not in errors
    assert not is_alive(child) and statuses(tmp_path) == [dg.DagsterRunStatus.CANCELED]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGSEGV, "SIGSEGV: it crashed in native code"),
        (signal.SIGKILL, "SIGKILL: it was killed, perhaps for lack of memory"),
    ],
)
def test_a_crash_is_reported_in_words(smallest, tmp_path, number, words):
    command = Command(tmp_path, smallest, MOMENTS["stage"], "run", KILL_MYSELF=str(int(number)))
    status, errors = command.end()
    assert status == 128 + number
    line = errors.splitlines()[-1]
    assert line.startswith(f"mobileclip2: raw_shards [g00]: ended by {words}"), errors
    assert "finished shards are kept" in line and "Traceback" not in errors
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.FAILURE
        assert any(words in entry.message for entry in instance.all_logs(run.run_id))
    if number == signal.SIGSEGV:
        assert ", in meet)" in line, "the line of Python that was running"


@pytest.mark.slow
def test_a_crash_while_importing_is_reported_too(smallest, tmp_path):
    command = Command(tmp_path, smallest, MOMENTS["importing"], "run", KILL_MYSELF=str(int(signal.SIGSEGV)))
    status, errors = command.end()
    assert status == 139 and errors.startswith("mobileclip2: importing: ended by SIGSEGV: "), errors


IN_CHILDREN = """
if "forkserver" in Path("/proc/self/cmdline").read_text():
    import mobileclip2.executors.local
    mobileclip2.executors.local._run_chunk = meet
elif os.environ.get("RANK"):
    meet()
"""


def with_children_that_meet(folder: Path) -> str:
    """Return a path for PYTHONPATH: workers of a pool and ranks of torchrun call ``meet`` when they start."""
    path = folder / "site"
    path.mkdir()
    (path / "sitecustomize.py").write_text(f"{PROLOGUE}{IN_CHILDREN}")
    return str(path)


@pytest.mark.slow
def test_stopping_the_command_ends_its_pool_workers(smallest, tmp_path):
    smallest.write_text(f"{smallest.read_text()}\ncompute: {{processes: 2}}\n")
    command = Command(tmp_path, smallest, "", "run", PYTHONPATH=with_children_that_meet(tmp_path))
    workers = command.meet(2)
    command.process.send_signal(signal.SIGTERM)
    status, errors = command.end()
    assert status == 128 + signal.SIGTERM and len(errors.splitlines()) == 1, errors
    assert not [worker for worker in workers if is_alive(worker)]
    assert statuses(tmp_path) == [dg.DagsterRunStatus.CANCELED]


@pytest.mark.slow
def test_a_worker_that_crashes_is_reported_with_its_signal(smallest, tmp_path):
    smallest.write_text(f"{smallest.read_text()}\ncompute: {{processes: 2}}\n")
    site = with_children_that_meet(tmp_path)
    command = Command(tmp_path, smallest, "", "run", PYTHONPATH=site, KILL_MYSELF=str(int(signal.SIGSEGV)))
    status, errors = command.end()
    assert (
        status == 1
        and "raw_shards [g00]: raw_shards: a worker process died by SIGSEGV: it crashed in native code" in errors
    )


@pytest.fixture
def ready_to_train(tiny: Path) -> Path:
    """Return a profile whose next asset is a student that two processes train."""
    values = yaml.safe_load(tiny.read_text())
    values.update(captioners=[], teachers=[], evaluation=[])
    values["students"] = [{**values["students"][1], "evaluate_on": []}]
    tiny.write_text(yaml.safe_dump({**values, "gate": {}, "compute": {"processes": 2}}, sort_keys=False))
    pipeline = Pipeline(load(tiny), InProcessExecutor())
    for asset, group in pipeline.stale():
        if not asset.trains:
            pipeline.materialize(asset.key, group)
    return tiny


@pytest.mark.slow
def test_stopping_the_command_ends_its_torchrun_ranks(ready_to_train, tmp_path):
    site = with_children_that_meet(tmp_path)
    command = Command(tmp_path, ready_to_train, "", "run", "student/plain", PYTHONPATH=site)
    ranks = command.meet(2)
    command.process.send_signal(signal.SIGINT)
    status, errors = command.end()
    assert status == 130 and "stopped by Ctrl-C in student/plain" in errors and "Traceback" not in errors, errors
    assert not [rank for rank in ranks if is_alive(rank)]
    assert dg.DagsterRunStatus.STARTED not in statuses(tmp_path)


@pytest.mark.slow
def test_a_rank_that_crashes_is_reported_with_its_signal(ready_to_train, tmp_path):
    site = with_children_that_meet(tmp_path)
    number = str(int(signal.SIGSEGV))
    command = Command(tmp_path, ready_to_train, "", "run", "student/plain", PYTHONPATH=site, KILL_MYSELF=number)
    status, errors = command.end()
    assert status == 1 and "student/plain: a training process died by SIGSEGV: it crashed in native code" in errors, (
        errors
    )


@pytest.mark.slow
def test_a_run_of_stored_assets_reports_that_all_are_stored(smallest, tmp_path):
    assert Command(tmp_path, smallest, "", "run", "raw_shards").end()[0] == 0
    status, errors = Command(tmp_path, smallest, "", "run", "raw_shards").end()
    assert status == 0 and errors == "nothing to compute: all 2 asset-group pairs are stored\n"


@pytest.mark.slow
def test_the_terminal_clock_runs_while_python_is_blocked(smallest, tmp_path):
    # Native code in the child holds the GIL and never releases it.
    hold = "import ctypes, mobileclip2.engine.plan\nmobileclip2.engine.plan.selected = lambda *_: ctypes.PyDLL(None).sleep(600)"
    master, slave = pty.openpty()
    script = f"{PROLOGUE}\n{hold}\nfrom pipelines.cli import main\nsys.exit(main())"
    environment = {
        **os.environ,
        "TERM": "xterm",
        "COLUMNS": "100",
        "DAGSTER_HOME": str(tmp_path / "dagster"),
    }
    arguments = [sys.executable, "-c", script, "run", "--profile", str(smallest)]
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=slave, stderr=slave)
    os.close(slave)
    shown = ""
    try:
        until = time.monotonic() + START_SECONDS
        while not all(
            "planning" in shown and f"0:00:0{second}" in shown.rpartition("starting")[2] for second in (1, 2, 3)
        ):
            readable, _, _ = select.select([master], [], [], max(0, until - time.monotonic()))
            assert readable, shown[-2000:]
            shown += os.read(master, 65536).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        while True:
            try:
                shown += os.read(master, 65536).decode(errors="replace")
            except OSError:  # The child has closed its end.
                break
    finally:
        process.kill()
        process.wait()
    assert "mobileclip2: stopped by Ctrl-C" in shown
