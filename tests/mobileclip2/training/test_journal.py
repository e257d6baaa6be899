from pathlib import Path

import pytest

from mobileclip2.errors import StoreError
from mobileclip2.training.journal import Journal


def test_truncate_drops_later_steps_and_partial_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append({"step": step, "loss": 1 / step} for step in range(1, 6))
    whole = journal.path.read_text()
    journal.path.write_text(whole + '{"step": 6, "lo')
    journal.truncate(5)
    assert journal.path.read_text() == whole
    journal.truncate(3)
    assert journal.path.read_text() == "".join(whole.splitlines(keepends=True)[:3])
    journal.truncate(0)
    assert journal.path.read_text() == ""


def test_last_returns_the_latest_value_of_each_metric(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append([{"step": 1, "loss": 2.0, "top1": 0.5}, {"step": 2, "loss": 1.0}])
    assert journal.last() == {"step": 2, "loss": 1.0, "top1": 0.5}


DAMAGE = [b"{broken}\n", bytes(20) + b"\n", b"\xff\xfe\n", b"7\n", b"{}\n", b'{"step": "2"}\n', b"[" * 5000 + b"\n"]


@pytest.mark.parametrize("damage", [*DAMAGE, b'{"step": 2, "loss": 3}\n'])
def test_a_changed_line_changes_the_hash_up_to_it(tmp_path: Path, damage: bytes) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append({"step": step, "loss": step / 2} for step in (1, 2, 3))
    hashes = [journal.sha256_until(step) for step in range(4)]
    assert hashes[3] == journal.sha256 and len(set(hashes)) == 4
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(lines[0] + damage + lines[2])
    changed = [journal.sha256_until(step) for step in range(4)]
    assert changed[:2] == hashes[:2] and changed[2] != hashes[2] and changed[3] != hashes[3]


def test_the_hash_is_correct_after_a_truncation(tmp_path: Path) -> None:
    whole, resumed = Journal(tmp_path / "whole.jsonl"), Journal(tmp_path / "resumed.jsonl")
    for journal in (whole, resumed):
        journal.append({"step": step} for step in (1, 2, 3))
    resumed = Journal(resumed.path)
    resumed.truncate(1)
    resumed.append({"step": step} for step in (2, 3))
    assert resumed.sha256 == whole.sha256


def test_a_journal_changed_during_training_is_reported(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append([{"step": 1, "loss": 0.5}])
    journal.path.write_bytes(b'{"step": 1, "loss": 0.4}\n')
    with pytest.raises(StoreError, match=r"metrics\.jsonl: damaged: it changed during the training; run again"):
        journal.verify()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_after_the_checkpoint_is_dropped(tmp_path: Path, damage: bytes) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.path.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 3}\n')
    journal.truncate(1)
    assert journal.last() == {"step": 1}
