"""The code location of Dagster. :func:`definitions_of` defines the same for any profile."""

from __future__ import annotations

import os

import dagster as dg

from mobileclip2.config.profile import Profile, load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.asset_definitions import stages
from pipelines.current import current
from pipelines.evaluate_job import evaluate_job
from pipelines.profiles import profile_path
from pipelines.refresh import refresh_job, studies_job
from pipelines.sensors import refresh_when_changed, show_what_is_current


def definitions_of(profile: Profile) -> dg.Definitions:
    """Define the assets, checks, jobs and sensors of a profile."""
    pipeline = Pipeline(profile)
    check = current(pipeline)
    return dg.Definitions.merge(
        stages(profile),
        dg.Definitions(
            asset_checks=[check],
            jobs=[
                refresh_job,
                *([studies_job(profile)] if profile.studies else []),
                evaluate_job,
                dg.define_asset_job(
                    "check_current",
                    dg.AssetSelection.checks(check),
                    description="Checks whether every asset is current, and lists what is missing and why. Computes nothing.",
                ),
            ],
            sensors=[refresh_when_changed(pipeline), show_what_is_current(pipeline)],
        ),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Define the profile in ``MOBILECLIP2_PROFILE``, by default the demo."""
    # Dagster loads a module by its name, so only the environment can tell it the profile
    return definitions_of(load(profile_path(os.environ.get("MOBILECLIP2_PROFILE", "demo"))))
