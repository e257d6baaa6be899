"""The sensor that observes inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from mobileclip2.config.profile import load
from pipelines.definitions import definitions_of
from tests.pipelines.small import edited


def tick(definitions: dg.Definitions, instance: dg.DagsterInstance) -> str:
    context = dg.build_sensor_context(instance, definitions=definitions)
    return str(definitions.resolve_sensor_def("observe_changes").evaluate_tick(context).skip_message)


def test_observe_changes_is_the_only_running_sensor(smallest: Path) -> None:
    sensors = definitions_of(load(smallest)).sensors or ()
    running = [sensor.name for sensor in sensors if sensor.default_status == dg.DefaultSensorStatus.RUNNING]
    assert running == ["observe_changes"]


def test_the_sensor_reports_inputs_once(smallest: Path, instance: dg.DagsterInstance) -> None:
    definitions = definitions_of(load(smallest))
    assert tick(definitions, instance) == "reported 3 changes"
    assert tick(definitions, instance) == "reported 0 changes"


def test_an_edited_profile_asks_for_a_reload(smallest: Path, instance: dg.DagsterInstance) -> None:
    definitions = definitions_of(load(smallest))
    edited(smallest, lambda values: values["views"].update(seed=7))
    assert tick(definitions, instance).endswith("has changed; reload the definitions")
