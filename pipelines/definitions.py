"""The code location of Dagster. :func:`definitions_of` defines the same for any profile."""

from __future__ import annotations

import dagster as dg

from mobileclip2.config.profile import Profile, load
from pipelines.asset_definitions import stages
from pipelines.automation import automation
from pipelines.evaluate_job import evaluate_job
from pipelines.profiles import default_profile, profile_path
from pipelines.refresh import refresh_job, studies_job
from pipelines.sensors import observe_changes


def definitions_of(profile: Profile) -> dg.Definitions:
    """Define the assets, jobs and sensors of a profile."""
    return dg.Definitions.merge(
        stages(profile),
        dg.Definitions(
            jobs=[
                refresh_job,
                *([studies_job(profile)] if profile.studies else []),
                *([evaluate_job(profile)] if profile.evaluation and (profile.students or profile.teachers) else []),
            ],
            sensors=[observe_changes(profile), *automation(profile)],
        ),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Define the default profile."""
    # Dagster loads this module by its name, so the profile comes from the environment
    return definitions_of(load(profile_path(default_profile())))
