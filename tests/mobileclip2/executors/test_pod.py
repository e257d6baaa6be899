"""The process of a pod. Here it runs a module that the test writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mobileclip2.executors import pod
from mobileclip2.executors.messages import PERMANENT, Failure, format_message, parse_output
from mobileclip2.executors.pod import PodLog
from tests.waiting import until

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def start(text: str, *options: str) -> subprocess.Popen[bytes]:
        (tmp_path / "work.py").write_text(text)
        command = [
            sys.executable,
            "-m",
            "mobileclip2.executors.pod",
            *options,
            str(tmp_path / "store"),
            ".logs/job",
            "work",
            "a",
        ]
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "POD_NAME": "job-0-x"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)

    return start


def log(folder: Path) -> Path:
    return folder / "store/.logs/job/job-0-x.log"


def test_the_output_is_in_the_log_and_in_the_store(start: Start, tmp_path: Path) -> None:
    work = start("import os, sys; print(sys.argv[1:], flush=True); os.write(2, b'caf\\xe9\\n'); sys.exit(7)")
    output, _ = work.communicate(timeout=240)
    assert work.returncode == 7 and output == b"['a']\ncaf\xe9\n" and log(tmp_path).read_bytes() == output


def test_a_deadly_signal_is_explained(start: Start, tmp_path: Path) -> None:
    work = start("import os; os.abort()")
    output, _ = work.communicate(timeout=240)
    (failure,), _ = parse_output(output.decode())
    assert work.returncode == 128 + signal.SIGABRT
    assert (
        isinstance(failure, Failure)
        and "died by SIGABRT: native code aborted" in failure.message
        and not failure.permanent
    )
    assert log(tmp_path).read_bytes() == output


def test_sigterm_reaches_the_module_and_its_last_output_is_kept(start: Start, tmp_path: Path) -> None:
    work = start(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('saved'))\n"
        "print('up', flush=True)\n"
        "time.sleep(600)"
    )
    assert work.stdout and work.stdout.readline() == b"up\n"
    work.send_signal(signal.SIGTERM)
    output, _ = work.communicate(timeout=240)
    assert work.returncode == 1 and output == b"saved\n" and log(tmp_path).read_bytes() == b"up\nsaved\n"


def test_a_module_that_handles_no_signal_ends_at_sigterm(start: Start) -> None:
    work = start("import time; print('up', flush=True); time.sleep(600)")
    assert work.stdout and work.stdout.readline() == b"up\n"
    work.send_signal(signal.SIGTERM)
    output, _ = work.communicate(timeout=240)
    assert work.returncode == 128 + signal.SIGTERM and output == b"", "an eviction is no failure of the process"


def test_a_permanent_failure_sets_the_exit_status_despite_torchrun(start: Start) -> None:
    message = format_message(Failure(message="bad input", permanent=True))
    work = start(f"print({message!r}); raise SystemExit(1)")
    work.communicate(timeout=240)
    assert work.returncode == PERMANENT


def test_a_peer_lingers_after_a_failure_until_sigterm(start: Start, tmp_path: Path) -> None:
    work = start("raise SystemExit('lost')", "--linger=600")
    until(log(tmp_path).exists)  # the process writes it before it lingers
    with pytest.raises(subprocess.TimeoutExpired):
        work.wait(timeout=1)
    work.send_signal(signal.SIGTERM)
    work.communicate(timeout=240)
    assert work.returncode == 1


def test_a_long_log_keeps_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pod, "MAX_BYTES", 10)
    kept = PodLog(str(tmp_path / "store"), "log")
    for number in range(20):
        kept.add(f"{number:02d}\n".encode())
    kept.push(wait=60)
    assert (tmp_path / "store/log").read_text() == "\n17\n18\n19\n" and capfd.readouterr().out.count("\n") == 20


def test_an_unwritable_store_does_not_stop_the_pod(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").write_text("a file")
    kept = PodLog(str(tmp_path / "store"), "log")
    kept.add(b"text\n")
    kept.push(wait=60)
    assert "the log is only in the cluster" in capfd.readouterr().err
