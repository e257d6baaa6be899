"""The component: the graph of a profile inside any Dagster project, ``dg scaffold defs pipelines.component.MobileClip2``."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from pydantic import BaseModel, Field

from mobileclip2.config.profile import Profile, load
from pipelines.asset_definitions import stages
from pipelines.automation import automation
from pipelines.profiles import built_in, profile_path
from pipelines.sensors import observe_changes

PROFILE = "path of a profile, relative to the folder of defs.yaml, or the name of a built-in profile"


class Parameters(BaseModel):
    """Parameters of ``dg scaffold defs``."""

    profile: str = Field("demo", description=PROFILE)


class ProfileScaffolder(dg.Scaffolder[Parameters]):
    """Writes a ``defs.yaml`` with a profile."""

    @classmethod
    def get_scaffold_params(cls) -> type[Parameters]:
        """Return the parameters."""
        return Parameters

    def scaffold(self, request: dg.ScaffoldRequest[Parameters]) -> None:
        """Write ``defs.yaml``."""
        dg.scaffold_component(request, {"profile": request.params.profile})


@dg.scaffold_with(ProfileScaffolder)
class MobileClip2(dg.Component, dg.Model, dg.Resolvable):
    """Train MobileCLIP2-style image-text models: the assets and checks of a profile.

    Keys of assets and names of groups and resources have a prefix, so that several profiles share a code location.
    """

    profile: str = Field(..., description=PROFILE)
    key_prefix: str | None = Field(None, description="prefix of the keys; by default, the name of the profile")

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Define the assets, checks, inputs and sensors of the profile. Runs use the executor of the project."""
        profile = self.load_profile(context.path.parent if context.path.is_file() else context.path)
        defined = stages(profile)
        return dg.Definitions(
            assets=defined.assets,
            resources=defined.resources,
            sensors=[observe_changes(profile), *automation(profile)],
        )

    def load_profile(self, folder: Path) -> Profile:
        """Load the profile with the prefix.

        Raises:
            ProfileError: the profile is missing or invalid.
        """
        file = profile_path(self.profile) if self.profile in built_in() else folder / self.profile
        profile = load(file)
        return profile.model_copy(update={"key_prefix": self.key_prefix or profile.name})
