from pathlib import Path

import pytest

from mobileclip2.errors import StoreError
from mobileclip2.training.journal import Journal


def test_cut_drops_later_steps_and_half_lines(tmp_path: Path) -> None:
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


def test_last_is_the_latest_value_of_each(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append([{"step": 1, "loss": 2.0, "top1": 0.5}, {"step": 2, "loss": 1.0}])
    assert journal.last() == {"step": 2, "loss": 1.0, "top1": 0.5}


DAMAGE = [b"{broken}\n", bytes(20) + b"\n", b"\xff\xfe\n", b"7\n", b"{}\n", b'{"step": "2"}\n', b"[" * 5000 + b"\n"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_that_is_needed_is_named(tmp_path: Path, damage: bytes) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.path.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 3}\n')
    for read in (lambda: journal.truncate(3), lambda: journal.truncate(2), journal.last):
        with pytest.raises(StoreError, match=r"metrics\.jsonl, line 2: damaged, .* delete the folder"):
            read()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_after_the_checkpoint_is_dropped(tmp_path: Path, damage: bytes) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.path.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 3}\n')
    journal.truncate(1)
    assert journal.last() == {"step": 1}
