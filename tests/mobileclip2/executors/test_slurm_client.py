"""The Slurm client with scripts in place of Slurm's commands. They print what the real commands printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.errors import ComputeError
from mobileclip2.executors.slurm_client import JobTask, SlurmClient


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def write(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def client(**options: float) -> SlurmClient:
    return SlurmClient(**{"patience": 5.0, "pause": 0.01, **options})  # type: ignore[arg-type]


def test_the_tasks_of_an_array_are_read_by_index(commands: Path) -> None:
    write(commands, "squeue", r'printf "2|PENDING|JobArrayTaskLimit\n1|RUNNING|None\n0|COMPLETED|None\n"')
    assert client().tasks(7) == [
        JobTask(2, "PENDING", "JobArrayTaskLimit"),
        JobTask(1, "RUNNING", "None"),
        JobTask(0, "COMPLETED", "None"),
    ]


def test_a_job_without_an_array_has_the_index_0(commands: Path) -> None:
    write(commands, "squeue", 'echo "N/A|TIMEOUT|TimeLimit"')
    (task,) = client().tasks(7)
    assert task == JobTask(0, "TIMEOUT", "TimeLimit") and task.ended


@pytest.mark.parametrize(
    ("accounting", "expected"),
    [
        ('echo "Slurm accounting storage is disabled" >&2; exit 1', []),
        (r'printf "7_0|COMPLETED\n7_1|CANCELLED by 0\n"', [(0, "COMPLETED"), (1, "CANCELLED")]),
        (r'printf "7|FAILED\n"', [(0, "FAILED")]),
    ],
)
def test_an_unknown_job_is_looked_up_in_the_accounting(
    commands: Path, accounting: str, expected: list[tuple[int, str]]
) -> None:
    write(commands, "squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    write(commands, "sacct", accounting)
    assert [(task.index, task.state) for task in client().tasks(7)] == expected


def test_requests_to_an_unreachable_controller_are_retried(commands: Path, tmp_path: Path) -> None:
    write(
        commands,
        "squeue",
        f"echo x >> {tmp_path}/asked; [ $(wc -l < {tmp_path}/asked) -gt 2 ] && exit 0\n"
        'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1',
    )
    assert client().active("name") == []
    with pytest.raises(
        ComputeError, match=r"squeue: .*Unable to contact slurm controller.*; run again when it is back"
    ):
        (tmp_path / "asked").unlink()
        client(patience=0.0).active("name")


def test_a_submission_with_a_lost_response_is_found_by_name(commands: Path, tmp_path: Path) -> None:
    write(commands, "squeue", f"[ -e {tmp_path}/submitted ] && echo 41; true")
    write(commands, "sbatch", f'cat > /dev/null; echo x >> {tmp_path}/submitted; echo "Socket timed out" >&2; exit 1')
    assert client().submit("#!/bin/bash\n", "name") == 41
    assert (tmp_path / "submitted").read_text() == "x\n"


def test_a_refusal_has_the_message_of_slurm(commands: Path) -> None:
    write(commands, "squeue", "true")
    write(commands, "sbatch", 'echo "sbatch: error: invalid partition specified: gpu" >&2; exit 1')
    with pytest.raises(ComputeError, match=r"compute\.slurm: sbatch: .*invalid partition specified: gpu"):
        client().submit("#!/bin/bash\n", "name")


def test_missing_slurm_commands_are_reported_with_a_remedy(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(commands))
    with pytest.raises(
        ComputeError, match="there is no command 'squeue' on this machine; run on a login node, or set 'ssh'"
    ):
        client().active("name")


def test_commands_keep_their_arguments_over_ssh(commands: Path, tmp_path: Path) -> None:
    write(commands, "ssh", f'printf "%s\\n" "$@" > {tmp_path}/words; exec bash -c "${{!#}}"')
    write(commands, "squeue", 'printf "5\\n5\\n6\\n"')
    over = SlurmClient("me@login", patience=1, pause=0.01)
    assert over.active("a name") == [5, 6]
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:3] == ["-o", "BatchMode=yes", "me@login"]
    assert words[3] == "squeue --noheader --me '--name=a name' --format=%F"
