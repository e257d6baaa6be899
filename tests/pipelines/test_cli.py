import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mobileclip2
from pipelines.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]


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


def test_a_missing_profile_is_reported(profile, capsys):
    assert main(["check", "--profile", "nowhere.yaml"]) == 1
    assert capsys.readouterr().err == "mobileclip2: nowhere.yaml: cannot read the profile: No such file or directory\n"


@pytest.mark.parametrize("url", ["s3://user:secret@bucket/x.yaml", "https:/user:secret@host/x.yaml"])
def test_the_error_about_a_profile_url_hides_its_password(profile, capsys, url):
    assert main(["plan", "--profile", url]) == 1
    said = capsys.readouterr().err
    assert "this is a URL; download it" in said and "secret" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", "URL", "-o", "out"],
        ["init", "--images", "URL"],
        ["search", "student/pupil", "a red bicycle", "URL"],
        ["export", "pupil", "--format", "onnx", "--to", "URL"],
        ["report", "--report", "URL"],
    ],
)
def test_a_url_for_a_local_path_is_refused_without_its_password(profile, capsys, arguments):
    with pytest.raises(SystemExit):
        main([each.replace("URL", "s3://user:secret@bucket/x") for each in arguments])
    said = capsys.readouterr().err
    assert "URL; give the path of a local f" in said and "secret" not in said


def test_a_missing_evaluation_set_is_found_before_any_work(profile, capsys):
    shutil.rmtree(profile.parent / "evaluation")
    assert main(["check", "--profile", str(profile)]) == 1
    assert "evaluation/shapes: no such folder, or it is empty" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failed_stage_reports_the_reason_and_keeps_finished_results(profile, capsys):
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
    """Return the modification time of each stored file except leases, which every run writes."""
    return {
        path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file() and ".leases" not in path.parts
    }


@pytest.mark.slow
def test_a_run_writes_table_and_report_and_a_second_run_reuses_everything(profile, capsys, tmp_path):
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
    assert second.out == first.out and second.err == "nothing to compute: all 37 asset-group pairs are stored\n"
    assert written(profile.parent / "store") == times
    assert main(["report", "--profile", str(profile), "pupil"]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "report-pupil.html").read_text()
    assert "shapes" in printed and "report: report-pupil.html" in printed
    assert "Confusion matrix" in page and "taken for" in page and "data:image/webp" in page and "thread" in page
    assert main(["latency", "--profile", str(profile), "plain", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["student"] == "plain" and 0 < measured["image"]["p50"] <= measured["image"]["p99"]
    assert main(["report", "--profile", str(profile), "nobody"]) == 1
    assert "there is no student 'nobody'; the profile has student/pupil, student/plain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "commands"),
    [("finished", ["plan", "run", "report", "lineage student/pupil", "gc"]), ("smallest", ["check", "plan"])],
)
def test_commands_without_computation_do_not_import_torch(request, tmp_path, name, commands):
    code = """
import sys
from pipelines.cli import main
for command in sys.argv[2:]:
    assert main([*command.split(), "--profile", sys.argv[1]]) == 0, command
    assert "torch" not in sys.modules, command
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(tmp_path / "dagster")}
    arguments = [sys.executable, "-c", code, request.getfixturevalue(name), *commands]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_untrained_student_has_no_report(profile, capsys):
    for command in ("report", "latency"):
        assert main([command, "--profile", str(profile), "pupil"]) == 1
        assert "not materialized yet; run 'mobileclip2 run'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["paln"], "there is no command 'paln'; did you mean 'plan'?"),
        (["xyzzy"], "there is no command 'xyzzy'; there are import, init, search, check"),
        (
            ["check", "--profile", "dmeo"],
            "there is no profile 'dmeo'; did you mean 'demo'? Built in are ablation, demo",
        ),
        (["check", "--profile", "demo.yml"], "there is no profile 'demo.yml'; did you mean 'demo'?"),
        (["check", "--profile", "xyzzy"], "there is no profile 'xyzzy'. Built in are ablation, demo"),
        (["run", "studnet/pupil"], "there is no asset 'studnet/pupil'; did you mean 'student/pupil'"),
        (["latency", "pupl"], "there is no student 'pupl'; did you mean 'student/pupil'?"),
        (["evaluate", "--student", "student/pupl"], "--student pupl: no such model; did you mean 'pupil'?"),
        (["lineage", "studnt/plain"], "there is no asset 'studnt/plain'; did you mean 'student/plain'"),
    ],
)
def test_a_mistyped_name_gets_a_suggestion(profile, capsys, arguments, words):
    with_profile = (
        arguments if "--profile" in arguments or len(arguments) == 1 else [*arguments, "--profile", str(profile)]
    )
    try:
        status = main(with_profile)
    except SystemExit as ended:  # argparse
        status = ended.code
    assert status in {1, 2} and words in capsys.readouterr().err


def test_a_mistyped_evaluation_set_gets_a_suggestion(profile, capsys):
    text = profile.read_text()
    assert "evaluate_on: [shapes]" in text
    profile.write_text(text.replace("evaluate_on: [shapes]", "evaluate_on: [shaeps]", 1))
    assert main(["check", "--profile", str(profile)]) == 1
    assert "evaluate_on: there is no 'shaeps'; did you mean 'shapes'?" in capsys.readouterr().err


def test_report_and_latency_take_a_student_by_key_and_by_name(profile, capsys):
    for name in ("pupil", "student/pupil"):
        for command in ("report", "latency"):
            assert main([command, name, "--profile", str(profile)]) == 1
            assert "not materialized yet" in capsys.readouterr().err


def test_help_is_plain_and_has_examples(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        shown = capsys.readouterr().out
        assert ended.value.code == 0 and "``" not in shown and ":func:" not in shown
        assert f"  mobileclip2 {command}" in shown or command == "ledger"
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "examples:" in capsys.readouterr().out


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"mobileclip2 {mobileclip2.__version__}\n"


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("mobileclip2 pl", {"plan "}),
        ("mobileclip2 run --profile de", {"demo "}),
        ("mobileclip2 run --profile tiny student/p", {"student/pupil", "student/plain"}),
        ("mobileclip2 latency --profile tiny teach", set()),
    ],
)
def test_names_are_completed(line, completions, tmp_path):
    found = tmp_path / "completions"
    asking = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(found),
    }
    command = [sys.executable, "-m", "pipelines.cli"]
    environment = {**os.environ, **asking, "_ARGCOMPLETE_IFS": "\n", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    assert {each for each in found.read_text().split("\n") if each} == completions


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_code_for_each_shell(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "mobileclip2" in capsys.readouterr().out


def test_help_loads_neither_torch_nor_dagster():
    code = "import sys; from pipelines.cli import make_parser; make_parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "dagster", "pydantic", "rich", "argcomplete"} & set(loaded.split())


@pytest.mark.parametrize("url", ["https://me:hunter2@host/x", "s3://bucket/x?X-Amz-Signature=hunter2"])
@pytest.mark.parametrize(
    "words",
    [
        "URL",
        "plan --profile URL",
        "check --profile URL",
        "run URL",
        "run --rehearse URL",
        "gc URL",
        "gc --keep URL",
        "import URL -o out",
        "import . -o URL",
        "init --images URL",
        "init --images . --evaluate URL",
        "search a URL",
        "search URL .",
        "evaluate --student URL",
        "evaluate --student plain --baseline URL",
        "evaluate --student plain --markdown URL",
        "export plain --format onnx --to URL",
        "lineage URL",
        "report URL",
        "report --report URL",
    ],
)
def test_no_command_prints_the_password_of_a_url(words, url, profile, capfd, monkeypatch):
    monkeypatch.chdir(profile.parent)
    monkeypatch.setenv("MOBILECLIP2_PROFILE", str(profile))
    try:
        status = main([word if word != "URL" else url for word in words.split()])
    except SystemExit as end:
        status = end.code
    printed = capfd.readouterr()
    assert status in {1, 2}, printed
    assert "hunter2" not in printed.out + printed.err
    assert not [path for path in profile.parent.rglob("*") if "hunter2" in str(path)]


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        ("import PATH -o out", "long file loop nul"),
        ("import shards -o PATH", "long file loop nul"),
        ("init --images PATH", "long file loop nul folder"),
        ("init --images shards --evaluate PATH", "long file loop nul folder"),
        ("init --images shards --output PATH", "long file loop nul folder"),
        ("search PATH cat shards", "long file loop nul folder"),
        ("search student/plain cat PATH", "long file loop nul folder"),
        ("search student/plain cat . --page PATH", "long nul folder"),
        ("check --profile PATH", "long file loop nul folder"),
        ("run --rehearse PATH", "long file loop nul"),
        ("evaluate --student plain --baseline PATH", "long nul"),
        ("evaluate --student plain --markdown PATH", "long nul folder"),
        ("lineage PATH", "long file loop nul folder"),
        ("lineage PATH.json", "long file loop nul"),
        ("gc PATH", "long file loop nul folder"),
        ("gc --keep PATH", "long file loop nul folder"),
        ("report --report PATH", "long file loop nul folder"),
    ],
)
def test_an_unusable_path_gives_a_one_line_error(words, paths, profile, capsys, monkeypatch):
    monkeypatch.chdir(profile.parent)
    monkeypatch.setenv("MOBILECLIP2_PROFILE", str(profile))
    Path("file").touch()
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    kinds = {"long": "x" * 300, "file": "file/x", "loop": "loop/x", "nul": "a\0b", "folder": "folder"}
    for kind in paths.split():
        try:
            status = main([word.replace("PATH", kinds[kind]) for word in words.split()])
        except SystemExit as end:
            status = end.code
        message = capsys.readouterr().err.splitlines()
        assert status in {1, 2} and message[-1].startswith("mobileclip2"), kind
        assert status == 2 or len(message) == 1, message


@pytest.mark.parametrize("number", ["EACCES", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENOSPC", "ENOTDIR", "EROFS"])
def test_a_file_system_error_is_reported_in_one_line(number, profile, capsys, monkeypatch):
    def fail(chosen):
        raise OSError(getattr(errno, number), "", "some/path")

    monkeypatch.setattr("pipelines.cli.pipeline_of", fail)
    assert main(["plan"]) == 1
    assert capsys.readouterr().err.startswith("mobileclip2: some/path: ")


@pytest.mark.parametrize("command", [["plan"], ["plan", "--json"], ["completion", "bash"]])
def test_a_closed_output_pipe_ends_the_command_without_a_message(command, profile):
    """The pipe is closed early in ``mobileclip2 plan | head -1``, for example."""
    reader, writer = os.pipe()
    os.close(reader)
    profile_of = [] if command[0] == "completion" else ["--profile", str(profile)]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *command, *profile_of],
        cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("field", ["store", "sources"])
def test_a_profile_path_that_is_too_long_is_reported(field, profile, capsys):
    values = yaml.safe_load(profile.read_text())
    if field == "store":
        values["store"] = "x" * 300
    else:
        values["sources"][0]["url"] = "x" * 300
    profile.write_text(yaml.safe_dump(values))
    for command in ("plan", "run"):
        assert main([command, "raw_shards", "--profile", str(profile)]) == 1
        assert "too long" in capsys.readouterr().err
