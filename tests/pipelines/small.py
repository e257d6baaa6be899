"""Two shrunken tiny profiles, for tests that run everything, and the sensor's daemon in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from assets.keys import library_key
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.definitions import definitions_of

Change = Callable[[dict[str, Any]], object]


def edited(profile: Path, change: Change) -> Pipeline:
    # anchors give one object several places; a change is meant for one of them
    values = json.loads(json.dumps(yaml.safe_load(profile.read_text())))
    change(values)
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    return Pipeline(load(profile))


def without_captioners(values: dict[str, Any]) -> None:
    """One teacher, one student, one of every other stage: 15 pairs of asset and group."""
    values.update(captioners=[], teachers=values["teachers"][:1], students=values["students"][:1])
    values["students"][0]["loss"] = {"captions": "real"}


def one_of_each(values: dict[str, Any]) -> None:
    """One group, captioner, teacher and student: every stage, in 13 pairs of asset and group."""
    values["groups"] = 1
    for name in ("captioners", "teachers", "students"):
        values[name] = values[name][:1]


def without_models(values: dict[str, Any]) -> None:
    """Raw shards, views and a corpus: nothing that takes time."""
    values.update(captioners=[], teachers=[], students=[], evaluation=[])


class Daemon:
    """Ticks a sensor and runs at once what it asks for, as Dagster's daemon does with the profile as it is then."""

    def __init__(self, profile: Path, instance: dg.DagsterInstance) -> None:
        self.profile, self.instance = profile, instance
        self.definitions = definitions_of(load(profile))
        self.sensor = self.definitions.resolve_sensor_def("refresh_when_changed")
        self.cursor: str | None = None
        self.launched: list[tuple[str, str | None]] = []

    def tick(self) -> Any:
        context = dg.build_sensor_context(self.instance, cursor=self.cursor, definitions=self.definitions)
        data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        return data

    def launch(self, request: dg.RunRequest) -> dg.DagsterRun:
        assert request.run_key and not self.instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": request.run_key}))
        assert request.asset_selection
        (key,) = request.asset_selection
        self.launched.append((library_key(key), request.partition_key))
        job = definitions_of(load(self.profile)).get_repository_def().get_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=self.instance,
            asset_selection=[key],
            partition_key=request.partition_key,
            tags={**request.tags, "dagster/run_key": request.run_key},
            raise_on_error=False,
        )
        return result.dagster_run

    def until_quiet(self, ticks: int = 20) -> str:
        """Why the last tick asked for nothing."""
        for _ in range(ticks):
            data = self.tick()
            if not data.run_requests:
                return str(data.skip_message)
            for request in data.run_requests or ():
                self.launch(request)
        raise AssertionError(f"not quiet after {ticks} ticks; last launched {self.launched[-3:]}")
