"""A schedule depends only on its seed. A run with faults ends with the same stored files as an undisturbed run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos import LATER, LIVES, Outage, Schedule
from mobileclip2.errors import LeaseLost
from mobileclip2.store import LocalStorage
from mobileclip2.store.lease import acquire
from tests.faults import Strike, flip, put_sources_back, swap_source, take_lease

ROOT = Path(__file__).parents[2]
SEEDS = range(500)


def test_a_seed_gives_the_same_schedule_in_another_process():
    code = "from benchmarks.chaos import Schedule; print([str(Schedule.of(seed)) for seed in range(20)])"
    elsewhere = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == str([str(Schedule.of(seed)) for seed in range(20)])


def test_schedules_contain_every_fault_process_and_store():
    schedules = [Schedule.of(seed) for seed in SEEDS]
    assert len({(schedule.where, schedule.store) for schedule in schedules}) == 6
    assert {len(schedule.lives) for schedule in schedules} == {LIVES}
    events = [event for schedule in schedules for life in schedule.lives for event in life]
    since = [each for each in events if isinstance(each, Strike) and each.what in LATER]
    assert len(since) == len(SEEDS) * LIVES
    assert {each.what for each in since} == set(LATER)
    assert {each.who for each in since} == {"run", "pod"}
    strikes = {(each.who, each.what) for each in events if isinstance(each, Strike) and each.what not in LATER}
    assert strikes == {
        (who, what) for who in ("run", "worker", "pod") for what in ("kill", "full disk", "truncate", "vanish", "clock")
    }
    outages = {(each.server, each.what) for each in events if isinstance(each, Outage)}
    assert {what for server, what in outages if server == "API"} == {"500", "503", "429", "lost"}
    assert len({what for server, what in outages if server == "S3"}) == 11


def test_a_flipped_bit_leaves_size_and_times(tmp_path: Path):
    (tmp_path / "file").write_bytes(bytes(10))
    before = (tmp_path / "file").stat()
    flip(tmp_path / "file", 13)
    after = (tmp_path / "file").stat()
    assert (tmp_path / "file").read_bytes() == bytes([0, 0, 0, 1 << 5, 0, 0, 0, 0, 0, 0])
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


def test_swapped_sources_are_restored(tmp_path: Path):
    (tmp_path / "shards").mkdir()
    for name in ("0", "1"):
        (tmp_path / "shards" / f"{name}.tar").write_text(name)
    assert swap_source(tmp_path, 0)
    assert (tmp_path / "shards" / "0.tar").read_text() == "1"
    put_sources_back(tmp_path)
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["0.tar", "1.tar"]
    assert (tmp_path / "shards" / "0.tar").read_text() == "0"


@pytest.mark.parametrize("lost", [True, False])
def test_a_holder_detects_the_loss_of_its_lease(tmp_path: Path, lost: bool):
    storage = LocalStorage(tmp_path)
    assert not take_lease(str(tmp_path), 0, lost=lost)
    with acquire(storage, ["output"]) as lease:
        assert take_lease(str(tmp_path), 0, lost=lost)
        with pytest.raises(LeaseLost):
            lease.check()


@pytest.mark.slow
def test_a_seed():
    command = [sys.executable, "-m", "benchmarks", "chaos", "--json", "--first", "8", "--seeds", "1"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    numbers = json.loads(ran.stdout[ran.stdout.index("{\n") :])
    (row,) = numbers["rows"]
    assert row["struck"] and not row["wrong"]
