"""The command ``evaluate`` as CI calls it, on the tiny pipeline."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.results import RESULTS, SAMPLES, dumps, measure, read_results
from pipelines.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def evaluated(tiny_template, tmp_path_factory):
    """Return a folder in which the plain student is trained and evaluated."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "dagster"))
        patch.setenv("MOBILECLIP2_CACHE", str(folder / "cache"))
        patch.setenv("MOBILECLIP2_PROFILE", "tiny")
        profile = shutil.copytree(tiny_template, folder / "tiny") / "tiny.yaml"
        assert main(["evaluate", "--profile", str(profile), "--student", "plain"]) == 0
    return folder


@pytest.fixture
def profile(evaluated, tmp_path, monkeypatch) -> Path:
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MOBILECLIP2_PROFILE", "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tiny" / "tiny.yaml"


def evaluate(profile: Path, *arguments: str) -> int:
    return main(["evaluate", "--profile", str(profile), "--student", "plain", *arguments])


def baseline(profile: Path, *, right: bool) -> Path:
    """Return a copy of the stored results, in which the baseline is right or wrong for every sample."""
    folder = Path(shutil.copytree(profile.parent / "store" / "evaluation" / "plain", "before"))
    (result,) = read_results(folder)
    table = result.samples
    column = table.column_names.index("rank")
    table = table.set_column(column, "rank", [[0 if right else 1] * table.num_rows])
    next(folder.rglob(RESULTS)).write_text(dumps([replace(result, metrics=measure(result.key, table))]))
    next(folder.rglob(SAMPLES)).write_bytes(sidecar.to_bytes(table))
    return folder


def test_without_a_baseline_it_prints_the_table(profile, capsys):
    assert evaluate(profile) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("### plain\n") and "| shapes | acc1 |" in printed and "No baseline" in printed


def test_a_better_baseline_fails_the_gate_and_the_table_is_written(profile, capsys):
    folder = baseline(profile, right=True)
    assert evaluate(profile, "--baseline", str(folder), "--markdown", "table.md") == 3
    printed = capsys.readouterr().out
    assert "**The gate fails.** 1 of 1 metrics" in printed and "**worse**" in printed
    written = Path("table.md").read_text()
    assert written.startswith(printed) and "### Cost of what is not stored" in written


def test_a_worse_or_equal_baseline_passes_the_gate(profile, capsys):
    stored = profile.parent / "store" / "evaluation" / "plain"
    assert evaluate(profile, "--baseline", str(stored)) == 0
    assert "+0.0 [+0.0, +0.0]" in capsys.readouterr().out
    assert evaluate(profile, "--baseline", str(baseline(profile, right=False))) == 0


def test_a_published_results_file_can_be_the_baseline(profile, capsys):
    line = {"key": "shapes", "dataset": "Shapes", "metrics": {"acc1": 0.99, "main_metric": 0.99}}
    Path("published.jsonl").write_text(json.dumps(line) + "\n")
    assert evaluate(profile, "--baseline", "published.jsonl") == 3
    printed = capsys.readouterr().out
    assert "the intervals do not include its noise" in printed and "The baseline has no protocol" in printed


def test_a_baseline_that_contradicts_its_samples_is_an_error(profile, capsys):
    folder = baseline(profile, right=True)
    shutil.copy(next((profile.parent / "store" / "evaluation" / "plain").rglob(SAMPLES)), next(folder.rglob(SAMPLES)))
    assert evaluate(profile, "--baseline", str(folder)) == 1
    assert "'shapes': acc1 of these samples is" in capsys.readouterr().err


def test_a_baseline_with_another_protocol_is_an_error(profile, capsys):
    folder = baseline(profile, right=True)
    templates = profile.parent / "evaluation" / "shapes" / "zeroshot_classification_templates.txt"
    templates.write_text("a {c}\n")
    assert evaluate(profile, "--baseline", str(folder)) == 1
    assert "the baseline was measured on other images, class names or templates" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "nobody"], "--student nobody: no such model; the profile evaluates pupil, plain, wide, narrow"),
        (["--baseline", "nowhere"], "baseline 'nowhere': not a student or teacher of the profile, a file or folder"),
    ],
)
def test_unknown_students_and_baselines_are_reported(profile, capsys, arguments, message):
    assert evaluate(profile, *arguments) == 1
    assert message in capsys.readouterr().err


def test_a_git_revision_can_be_the_baseline(profile, capsys):
    def git(*arguments: str) -> None:
        name = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *name, *arguments], cwd=profile.parent, check=True, capture_output=True)

    git("init", "-b", "main")
    git("add", profile.name)
    git("commit", "-m", "as it was")
    values = json.loads(json.dumps(yaml.safe_load(profile.read_text())))
    values["students"][1]["train"]["seed"] = 7
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    values["sources"][0]["caption_keys"] = ["key"]
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    assert evaluate(profile, "--baseline", "main", "--markdown", "comment.md") in {0, 3}
    printed = capsys.readouterr().out
    assert "### plain against main" in printed and "+0.0 [+0.0, +0.0]" not in printed
    comment = Path("comment.md").read_text()
    assert comment.startswith(printed)
    assert "### Data, compared with main" in comment and "| raw_shards | 23 → 23 | 23 (100.0%) | 0000" in comment
    assert "### Cost of what is not stored" in comment and "| student/plain |  |" in comment
    assert "train.seed 0 -> 7" in comment
    git("commit", "-am", "as it is")
    capsys.readouterr()
    (profile.parent / "corpus").rename(profile.parent / "elsewhere")
    assert evaluate(profile, "--baseline", "main", "--markdown", "comment.md") in {0, 3}
    assert "Not compared: " in Path("comment.md").read_text() and "corpus" in Path("comment.md").read_text()
    (profile.parent / "elsewhere").rename(profile.parent / "corpus")
    shutil.rmtree(profile.parent / "store" / "evaluation")
    assert evaluate(profile, "--baseline", "main") == 1
    assert "the store has no evaluation of 'plain' as that revision makes it" in capsys.readouterr().err


def test_the_asset_check_reports_the_gate_verdict(profile):
    from assets.checks import Check
    from assets.evaluation import no_worse_than_baseline
    from pipelines.definitions import definitions_of

    folder = baseline(profile, right=True)
    values = json.loads(json.dumps(yaml.safe_load(profile.read_text())))
    values["gate"] = {"baseline": str(folder)}
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    pipeline = Pipeline(load(profile))
    done = pipeline.materialize("evaluation/plain", "shapes")
    assert done.computed == []
    check = Check(no_worse_than_baseline).evaluate(pipeline, done)
    assert not check.passed and check.severity.value == "ERROR" and "**The gate fails.**" in check.description
    names = {key.name for key in definitions_of(pipeline.profile).get_repository_def().asset_graph.asset_check_keys}
    assert "no_worse_than_baseline" in names
    shutil.rmtree(folder)
    check = Check(no_worse_than_baseline).evaluate(pipeline, done)
    assert not check.passed and check.severity.value == "WARN" and "correct the name" in check.description
