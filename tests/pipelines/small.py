"""Two shrunken tiny profiles, for tests that run everything, and Dagster's daemon in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from assets.keys import dagster_key, library_key
from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.definitions import definitions_of

Change = Callable[[dict[str, Any]], object]


def edited(profile: Path, change: Change) -> Pipeline:
    # YAML anchors put one object in several places, and a change must affect only one of them.
    values = json.loads(json.dumps(yaml.safe_load(profile.read_text())))
    change(values)
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    return Pipeline(load(profile))


def without_captioners(values: dict[str, Any]) -> None:
    """Keep one teacher, one student and one of every other stage: 15 pairs of asset and group."""
    values.update(captioners=[], teachers=values["teachers"][:1], students=values["students"][:1])
    values["students"][0]["loss"] = {"captions": "real"}


def one_of_each(values: dict[str, Any]) -> None:
    """Keep one group, captioner, teacher and student: every stage, in 13 pairs of asset and group."""
    values["groups"] = 1
    for name in ("captioners", "teachers", "students"):
        values[name] = values[name][:1]


def without_models(values: dict[str, Any]) -> None:
    """Keep only raw shards, views and a corpus, which are fast to compute."""
    values.update(captioners=[], teachers=[], students=[], evaluation=[])


class Daemon:
    """Evaluates the automation conditions and runs the requested pairs at once, as Dagster's daemon does."""

    def __init__(self, profile: Path, instance: dg.DagsterInstance, *keys: str) -> None:
        self.profile, self.instance, self.keys = profile, instance, keys
        self.cursor: Any = None
        self.launched: list[tuple[str, str | None]] = []
        self.reload()

    def reload(self) -> None:
        self.definitions = definitions_of(load(self.profile))

    def tick(self) -> list[tuple[str, str | None]]:
        """Return the requested pairs, in topological order."""
        graph = Pipeline(load(self.profile)).graph
        keys = [dagster_key(key) for key in graph if not self.keys or key in self.keys]
        result = dg.evaluate_automation_conditions(
            self.definitions, self.instance, dg.AssetSelection.assets(*keys), cursor=self.cursor
        )
        self.cursor = result.cursor
        return [
            (library_key(key), group) for key in keys for group in sorted(result.get_requested_partitions(key), key=str)
        ]

    def launch(self, pair: tuple[str, str | None]) -> None:
        self.launched.append(pair)
        job = definitions_of(load(self.profile)).get_repository_def().get_implicit_global_asset_job_def()
        key = dagster_key(AssetKey(pair[0]))
        job.execute_in_process(
            instance=self.instance, asset_selection=[key], partition_key=pair[1], raise_on_error=False
        )

    def until_quiet(self, ticks: int = 20) -> None:
        """Tick until the conditions request no pair."""
        for _ in range(ticks):
            pairs = self.tick()
            if not pairs:
                return
            for pair in pairs:
                self.launch(pair)
        raise AssertionError(f"not quiet after {ticks} ticks; last launched {self.launched[-3:]}")
