from pathlib import Path

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
