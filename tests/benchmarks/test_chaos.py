"""A schedule is its seed's alone; a few seeds end as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos import LIVES, Outage, Schedule
from tests.faults import Strike

ROOT = Path(__file__).parents[2]
SEEDS = range(500)


def test_a_seed_gives_the_same_schedule_anywhere():
    code = "from benchmarks.chaos import Schedule; print([str(Schedule.of(seed)) for seed in range(20)])"
    elsewhere = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == str([str(Schedule.of(seed)) for seed in range(20)])


def test_schedules_hold_every_fault_in_every_place():
    schedules = [Schedule.of(seed) for seed in SEEDS]
    assert len({(schedule.where, schedule.store) for schedule in schedules}) == 6
    assert {len(schedule.lives) for schedule in schedules} == {LIVES}
    events = [event for schedule in schedules for life in schedule.lives for event in life]
    strikes = {(each.who, each.what) for each in events if isinstance(each, Strike)}
    assert strikes == {
        (who, what) for who in ("run", "worker", "pod") for what in ("kill", "full disk", "truncate", "vanish", "clock")
    }
    outages = {(each.server, each.what) for each in events if isinstance(each, Outage)}
    assert {what for server, what in outages if server == "API"} == {"500", "503", "429", "lost"}
    assert len({what for server, what in outages if server == "S3"}) == 11


@pytest.mark.slow
def test_some_seeds():
    command = [sys.executable, "-m", "benchmarks", "chaos", "--json", "--first", "4", "--seeds", "2"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    numbers = json.loads(ran.stdout[ran.stdout.index("{\n") :])
    assert [row["wrong"] for row in numbers["rows"]] == [[], []]
    assert all(row["struck"] for row in numbers["rows"])
