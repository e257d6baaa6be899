"""The job ``evaluate`` on a real Dagster server with a daemon, launched by the command and by the workflow's steps."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.store.lease import acquire
from tests.pipelines.server import FAST_DAEMON, LOCATION, Dagster, kill
from tests.pipelines.small import edited

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def learn(profile: Path) -> None:
    """Overfit the teacher ``wide`` to the evaluation set, and add noise to a copy of its weights for ``noisy``."""
    import torch
    from safetensors.torch import load_file, save_file
    from torch.nn import functional as F

    from mobileclip2.evaluation.features import Features
    from mobileclip2.models.build import from_config
    from tests.tiny import CLASSES, TEMPLATES, draw

    weights = profile.parent / "weights" / "wide.safetensors"
    teacher = load(profile).teachers[0]
    assert teacher.model
    model = from_config({"model_cfg": teacher.model.config})
    tower = model.model.visual
    model.model.load_state_dict(load_file(weights))
    model.model.eval()
    texts = Features(model).of_classes(CLASSES, TEMPLATES).T.clone()
    pixels = torch.stack([model.preprocess.whole(draw(label, f"test {n}")) for n, label in enumerate(CLASSES)])
    optimizer = torch.optim.AdamW(tower.parameters(), 3e-3)
    for _ in range(150):
        logits = 50 * F.normalize(model.model.encode_image(pixels), dim=-1) @ texts
        optimizer.zero_grad()
        loss = F.cross_entropy(logits, torch.arange(len(CLASSES)))
        loss.backward()
        optimizer.step()
    assert loss < 0.5
    save_file(model.model.state_dict(), weights)
    with torch.no_grad():
        for number, parameter in enumerate(tower.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter += 3 * parameter.std() * noise if parameter.numel() > 1 else 0
    save_file(model.model.state_dict(), weights.with_name("noisy.safetensors"))


@pytest.fixture(scope="module")
def profile(tiny_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    profile = Path(shutil.copytree(tiny_template, tmp_path_factory.mktemp("remote") / "tiny")) / "tiny.yaml"

    def teachers(values: dict) -> None:
        wide = values["teachers"][0]
        named = {
            name: {**wide, "name": name, "model": {**wide["model"], "weights": {"path": f"weights/{name}.safetensors"}}}
            for name in ("wide", "noisy", "slow", "gone")
        }
        values.update(captioners=[], students=[], teachers=list(named.values()), gate={"baseline": "wide"})

    pipeline = edited(profile, teachers)
    learn(profile)
    whole = profile.parent / "weights" / "wide.safetensors"
    shutil.copy(whole, whole.with_name("slow.safetensors"))
    for key, group in (("teacher/wide", None), ("evaluation/wide", "shapes"), ("teacher/slow", None)):
        pipeline.materialize(key, group)
    return profile


@pytest.fixture(scope="module")
def dagster(profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagster]:
    with ExitStack() as stack:
        yield Dagster(profile, tmp_path_factory.mktemp("dagster"), stack, daemon=FAST_DAEMON)


def command(dagster: Dagster, *arguments: str) -> list[str]:
    """Return the command, in a Python without installed packages."""
    asking = ["evaluate", "--dagster", dagster.url, *arguments]
    return [sys.executable, "-S", "-m", "pipelines.cli", *asking]


def call(dagster: Dagster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(dagster, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=200)


def status(dagster: Dagster, printed: str) -> str:
    """Return the server's status of the run whose page was printed."""
    (run,) = re.findall(r"launched in .*/runs/([0-9a-f-]+)", printed)
    body = f'{{"query": "{{ runOrError(runId: \\"{run}\\") {{ ... on Run {{ status }} }} }}"}}'.encode()
    request = urllib.request.Request(f"{dagster.url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return str(yaml.safe_load(answer.read())["data"]["runOrError"]["status"])


def test_invalid_arguments_are_refused(dagster):
    for arguments in (["--profile", "demo"], ["--wait", "0"], ["--wait", "soon"]):
        called = call(dagster, "--student", "wide", *arguments)
        assert called.returncode == 2, called.stderr
    here = [
        each for each in command(dagster, "--student", "wide", "--wait", "1") if each not in {"--dagster", dagster.url}
    ]
    called = subprocess.run(here, cwd=ROOT, capture_output=True, text=True)
    assert called.returncode == 2 and "need --dagster" in called.stderr


def test_without_a_daemon_the_queued_run_is_withdrawn(dagster):
    called = call(dagster, "--student", "wide", "--wait", "0.05")
    assert called.returncode == 1 and not called.stdout
    assert "was withdrawn: the server has no running daemon; start 'dagster-daemon run' there" in called.stderr
    assert status(dagster, called.stderr) == "CANCELED"


def workflow_job(dagster: Dagster, folder: Path, student: str) -> tuple[int, str]:
    """Run the action as the workflow's job ``remote`` does. Return the first failed step's status and the output."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "evaluate.yml").read_text())
    known = {
        "env.STUDENT": student,
        "vars.DAGSTER_URL": dagster.url,
        "github.event.pull_request.head.sha || github.sha": LOCATION.partition("-")[2],
        "secrets.MOBILECLIP2_DAGSTER_TOKEN": "token",
    }
    (use,) = (step for step in workflow["jobs"]["remote"]["steps"] if step["uses"].startswith("./"))
    for name in ("pipelines", "mobileclip2"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / ".github", folder / ".github")
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n')
    python.chmod(0o755)
    return run_action(folder / use["uses"], {name: filled(value, known) for name, value in use["with"].items()}, folder)


def filled(text: str, known: dict[str, str]) -> str:
    """Replace the expressions of a text with their values."""
    return re.sub(r"\$\{\{ (.*?) \}\}", lambda match: known[match[1]], text)


def run_action(action: Path, given: dict[str, str], folder: Path) -> tuple[int, str]:
    """Run the shell steps of a composite action as a runner does."""
    described = yaml.safe_load((action / "action.yml").read_text())
    inputs = {name: given.get(name, each.get("default")) for name, each in described["inputs"].items()}
    assert None not in inputs.values() and given.keys() <= inputs.keys()
    holds = {"inputs.dagster == ''": not inputs["dagster"], "inputs.dagster != ''": bool(inputs["dagster"])}
    result, output = 0, ""
    for step in described["runs"]["steps"]:
        condition = step.get("if", "")
        if "run" not in step or not holds.get(condition, not result or "!cancelled()" in condition):
            continue
        known = {f"inputs.{name}": value for name, value in inputs.items()}
        environment = {
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "GITHUB_ACTION_PATH": str(action),
            **{name: filled(value, known) for name, value in step.get("env", {}).items()},
        }
        ran = subprocess.run(
            ["bash", "-e", "-c", step["run"]], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
        )
        output += ran.stdout + ran.stderr
        result = result or ran.returncode
    return result, output


def test_the_action_sets_up_its_own_checkout_and_names_its_inputs(tmp_path):
    """The command is a stand-in, because the real action installs all packages."""
    code = tmp_path / "code"
    shutil.copytree(ROOT / ".github", code / ".github")
    (code / "Makefile").write_text("setup:\n\tmkdir -p .venv/bin && cp command .venv/bin/mobileclip2\n")
    (code / "command").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > arguments\necho table > comparison.md\nexit 3\n')
    (code / "command").chmod(0o755)
    given = {"student": "mine; touch stolen", "profile": "own profile.yaml", "baseline": "origin/main"}
    result, output = run_action(code / ".github" / "actions" / "evaluate", given, tmp_path)
    assert result == 3, output
    expected = ["evaluate", "--profile", "own profile.yaml", "--student", "mine; touch stolen"]
    expected += ["--markdown", "comparison.md", "--baseline", "origin/main"]
    assert (tmp_path / "arguments").read_text().splitlines() == expected
    assert (tmp_path / "summary.md").read_text() == "table\n"


def test_the_workflow_passes_and_shows_the_table(dagster, tmp_path):
    result, output = workflow_job(dagster.with_daemon(), tmp_path / "checkout", "wide")
    assert result == 0, output
    progress = [line.partition(": ")[2] for line in output.splitlines() if line.startswith("mobileclip2: ")]
    # The command polls, and a run without computation may have ended before the first poll.
    assert progress and set(progress[1:]) <= {"queued", "starting", "started"}, "it was all there"
    summary = (tmp_path / "checkout" / "summary.md").read_text()
    assert summary == (tmp_path / "checkout" / "comparison.md").read_text() and summary in output
    assert summary.startswith("### wide against wide\n") and "**The gate passes.**" in summary
    assert f"{dagster.url}/runs/" in summary and "token" not in output


def test_the_workflow_fails_for_a_worsened_checkpoint(dagster, tmp_path):
    result, output = workflow_job(dagster.with_daemon(), tmp_path / "checkout", "noisy")
    assert result == 3, output
    summary = (tmp_path / "checkout" / "summary.md").read_text()
    assert "**The gate fails.** 1 of 1 metrics" in summary and "**worse**" in summary
    assert "2 of 2 asset-group pairs are computed" in output, output


def test_a_failed_run_reports_its_own_message(dagster):
    called = call(dagster.with_daemon(), "--student", "gone", "--wait", "3")
    assert called.returncode == 1 and not called.stdout
    assert re.search(r"the run failed: .*gone\.safetensors.* does not exist", called.stderr), called.stderr
    assert f"see {dagster.url}/runs/" in called.stderr and "Traceback" not in called.stderr
    assert status(dagster, called.stderr) == "FAILURE"


@contextmanager
def hanging(profile: Path) -> Iterator[None]:
    """Hold the lease of ``evaluation/slow``, so that a run of it waits until the block ends."""
    pipeline = Pipeline(load(profile))
    asset = pipeline.graph["evaluation/slow"]
    work = pipeline.task_for(asset, asset.slices["shapes"], "shapes")
    assert work
    with acquire(pipeline.storage, [work.output.prefix]):
        yield


def test_waits_end_for_hanging_runs_queued_runs_and_stopped_servers(dagster, profile):
    dagster.with_daemon()
    with hanging(profile):
        started = time.monotonic()
        hung = call(dagster, "--student", "slow", "--wait", "0.5")
        assert time.monotonic() - started < 45
        assert hung.returncode == 1 and not hung.stdout
        assert "the backfill has not ended in time (0 of 1 " in hung.stderr and "it continues" in hung.stderr
        assert status(dagster, hung.stderr) == "SUCCESS"

        behind = call(dagster, "--student", "wide", "--wait", "0.05")
        assert behind.returncode == 1 and "was queued all the time and was withdrawn: other runs" in behind.stderr
        assert status(dagster, behind.stderr) == "CANCELED"

        arguments = command(dagster, "--student", "wide", "--wait", "0.2")
        with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr
            assert "launched" in waiting.stderr.readline() and "queued" in waiting.stderr.readline()
            kill(dagster.web)
            said = waiting.stderr.read()
        assert waiting.returncode == 1
        assert "cannot be reached" in said and "may continue there: call again when the server is back" in said
    gone = call(dagster, "--student", "wide")
    assert gone.returncode == 1 and f"{dagster.url}: cannot be reached" in gone.stderr
