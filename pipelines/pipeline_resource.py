"""The resource that hands the pipeline of the loaded profile to the assets of a run."""

# no `from __future__ import annotations`: Dagster reads the annotations of the class
import dagster as dg
from pydantic import Field

from assets.inputs import input_versions
from assets.keys import library_key, named
from mobileclip2.config.profile import Profile
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from pipelines.observe import observe
from pipelines.processes import mark


class PipelineResource(dg.ConfigurableResource[Pipeline]):
    """The pipeline of a profile: its stages, store and executor. Each run has a new one."""

    profile: str = Field(description="file of the profile whose assets this code location defines")
    # not read again from the file, so that an edit cannot change the later assets of a command
    loaded: dg.ResourceDependency[Profile]

    def create_resource(self, context: dg.InitResourceContext) -> Pipeline:
        """Return a new pipeline, so that the run reads the store and external inputs as they are at its start.

        Raises:
            UserError: The run's configuration names another profile than the one whose assets are defined.
        """
        from mobileclip2.executors import executor_of  # only runs need it, and loading the definitions must stay fast

        profile = self.loaded
        if self.profile != profile.file:
            raise UserError(
                f"resources.{named('pipeline', profile)}.config.profile: "
                f"this code location defines the assets of {profile.file}, not of '{self.profile}'; "
                "remove the value, or load the other profile as a code location of its own"
            )
        pipeline = Pipeline(profile, executor_of(profile))
        if context.instance and context.run:
            # in a cluster, the run launcher monitors the pods of a run
            if profile.compute.kubernetes is None:
                mark(context.instance, context.run.run_id)
            # Dagster records the versions of a step's inputs when it starts, after this
            selected = {library_key(key) for key in context.run.asset_selection or ()}
            observe(context.instance, input_versions(pipeline, selected))
        return pipeline
