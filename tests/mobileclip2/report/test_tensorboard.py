from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from mobileclip2.errors import StoreError
from mobileclip2.report.sheets import training_records
from mobileclip2.report.tensorboard import write_events
from pipelines.cli import main


def scalars(run: Path) -> dict[int, dict[str, float]]:
    """Return the values of a run by step. A record of an event file has its length, a checksum, the data and a checksum."""
    (file,) = run.glob("events.out.tfevents.*")
    data, values, at = file.read_bytes(), {}, 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + size])
        at += size + 16
        for value in event.summary.value:
            values.setdefault(event.step, {})[value.tag] = value.simple_value
    return values


def test_each_training_is_a_run_with_its_records(materialized, tmp_path):
    pipeline = materialized("student/plain")
    for _ in range(2):
        names = write_events(pipeline, tmp_path / "runs")
    assert "student/plain" in names and not any(name.startswith(("teacher/", "evaluation/")) for name in names)
    records = training_records(pipeline, "student/plain")
    expected = {}
    for record in records:
        expected.setdefault(record["step"], {}).update({name: record[name] for name in record if name != "step"})
    assert len(expected) == 4
    found = scalars(tmp_path / "runs" / "student" / "plain")
    assert found == {step: pytest.approx(values, rel=1e-6) for step, values in expected.items()}


def test_a_folder_that_cannot_be_written_is_named(materialized, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/[\w/]+: .*; give a folder that can be written"):
        write_events(materialized("student/plain"), tmp_path / "file")


def test_the_command_prints_what_to_run_next(materialized, tiny, tmp_path, capsys):
    pipeline = materialized("student/plain")
    assert main(["tensorboard", "--profile", pipeline.profile.file, str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "student/plain" in said and f"tensorboard --logdir {tmp_path / 'runs'}" in said
    assert main(["tensorboard", "--profile", str(tiny), str(tmp_path / "none")]) == 0
    assert "0 trainings\nrun 'mobileclip2 run' first" in capsys.readouterr().out and not (tmp_path / "none").exists()
