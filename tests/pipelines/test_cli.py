import json
import shutil

import pytest

from pipelines.cli import main


@pytest.fixture
def profile(tiny_template, tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("MOBILECLIP2_PROFILE", "tiny")
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(tiny_template, tmp_path / "tiny") / "tiny.yaml"


def test_check_counts_the_graph(profile, capsys):
    assert main(["check", "--profile", str(profile)]) == 0
    printed = capsys.readouterr().out
    assert "tiny: 4 shards in 2 groups" in printed
    assert "teacher_embeddings   8 assets" in printed


def test_a_profile_that_is_not_there(profile, capsys):
    assert main(["check", "--profile", "nowhere.yaml"]) == 1
    assert capsys.readouterr().err == "mobileclip2: nowhere.yaml: cannot read the profile: No such file or directory\n"


def test_a_missing_evaluation_set_is_found_before_any_work(profile, capsys):
    shutil.rmtree(profile.parent / "evaluation")
    assert main(["check", "--profile", str(profile)]) == 1
    assert "evaluation/shapes: no such folder, or it is empty" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stage_that_fails_says_why_and_keeps_what_was_finished(profile, capsys):
    shard = profile.parent / "shards" / "00001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert main(["run", "--profile", str(profile)]) == 1
    message = capsys.readouterr().err
    assert "mobileclip2: raw_shards [g01]:" in message
    assert "00001.tar: cut off or damaged at byte" in message and "Fetch the shard again" in message
    assert "Traceback" not in message
    assert len(list((profile.parent / "store" / "raw_shards").rglob("manifest.json"))) == 1


def written(store):
    """When each stored file was written; a lease is taken by every run and says nothing of outputs."""
    return {
        path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file() and ".leases" not in path.parts
    }


@pytest.mark.slow
def test_a_run_ends_with_the_table_and_the_report_and_a_second_one_computes_nothing(profile, capsys, tmp_path):
    report = tmp_path / "report.html"
    assert main(["run", "--profile", str(profile), "--report", str(report)]) == 0
    first = capsys.readouterr()
    assert "student/pupil" in first.err and "top-1" in first.out and "pupil against plain" in first.out
    page = report.read_text()
    assert "truncated-image" in page and "<svg" in page and "data:image/" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    times = written(profile.parent / "store")
    assert main(["run", "--profile", str(profile), "--report", str(report)]) == 0
    second = capsys.readouterr()
    assert second.out == first.out and " in " not in second.err
    assert written(profile.parent / "store") == times
    assert main(["report", "--profile", str(profile), "pupil"]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "report-pupil.html").read_text()
    assert "shapes" in printed and "report: report-pupil.html" in printed
    assert "Confusion matrix" in page and "taken for" in page and "data:image/webp" in page and "thread" in page
    assert main(["latency", "--profile", str(profile), "plain", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["student"] == "plain" and 0 < measured["image"]["p50"] <= measured["image"]["p99"]
    assert main(["report", "--profile", str(profile), "nobody"]) == 1
    assert "'nobody': no student of the profile, which has pupil, plain" in capsys.readouterr().err


def test_a_student_that_is_not_trained_has_no_report(profile, capsys):
    for command in ("report", "latency"):
        assert main([command, "--profile", str(profile), "pupil"]) == 1
        assert "not materialised yet; run 'mobileclip2 run'" in capsys.readouterr().err
