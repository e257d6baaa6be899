"""A pipeline for programs and notebooks: plan, run and read the assets of a profile, without Dagster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Self

from mobileclip2.api.dataset import ReinforcedDataset
from mobileclip2.api.load import load_from_pipeline
from mobileclip2.api.model import ImageTextModel
from mobileclip2.config.profile import load as load_profile
from mobileclip2.engine import pipeline as engine
from mobileclip2.engine import plan as planning
from mobileclip2.executors import executor_of
from mobileclip2.names import find
from mobileclip2.progress import Progress, silent
from mobileclip2.stages.trained import tars_of
from mobileclip2.training.data import KEYS


@dataclass(frozen=True)
class Planned:
    """An asset to compute for one group, with the reasons."""

    asset: str
    group: str | None
    reasons: tuple[str, ...]


class Pipeline:
    """The assets of one profile. It computes what ``mobileclip2 run`` computes, into the same store."""

    def __init__(self, pipeline: engine.Pipeline) -> None:
        self._pipeline = pipeline

    @classmethod
    def open(cls, profile: str | os.PathLike[str]) -> Self:
        """Open the profile of a YAML file.

        Raises:
            ProfileError: the file cannot be read or is invalid. The message names each invalid field.
        """
        loaded = load_profile(Path(profile))
        return cls(engine.Pipeline(loaded, executor_of(loaded)))

    def __repr__(self) -> str:
        return f"<Pipeline {self._pipeline.profile.name}: {len(self._pipeline.graph)} assets>"

    @property
    def assets(self) -> list[str]:
        """Return the names of all assets in the order in which they are computed."""
        return [str(key) for key in self._pipeline.graph]

    def plan(self, *assets: str) -> list[Planned]:
        """Return what a run would compute, for all assets or for some with their upstream assets.

        Raises:
            UserError: there is no such asset, or an input is missing.
        """
        planned = planning.plan(self._pipeline, list(assets))
        reasons: dict[tuple[str, str | None], dict[str, None]] = {}
        for item in planned.items:
            reasons.setdefault((str(item.asset), item.group), {}).update(dict.fromkeys(item.reasons))
        return [Planned(asset, group, tuple(why)) for (asset, group), why in reasons.items()]

    def run(self, *assets: str, progress: Progress = silent) -> int:
        """Compute what is missing, for all assets or for some with their upstream assets.

        Args:
            progress: called with each step of the current asset.

        Returns:
            The number of (asset, group) pairs that were computed.

        Raises:
            UserError: a stage rejects its input. Finished shards are kept.
        """
        from mobileclip2.stages.published_weights import check_published_weights

        pipeline, computed = self._pipeline, 0
        pipeline.forget()
        keys = planning.selected(pipeline, list(assets))
        check_published_weights(pipeline, keys)
        with pipeline.run_lease() as lease:
            for asset in [pipeline.graph[key] for key in keys]:
                for group in pipeline.groups(asset):
                    lease.check()
                    if pipeline.missing(asset, group):
                        pipeline.materialize(asset.key, group, progress)
                        computed += 1
        return computed

    def read(self, name: str) -> dict[str, dict[str, float | None]]:
        """Return the metrics of an evaluation: a dictionary by set, with a dictionary by metric.

        Raises:
            UserError: the profile has no such evaluation, or it is not computed.
        """
        from mobileclip2.stages.stored_results import stored_results

        graph = self._pipeline.graph
        key = find(name, [asset.key for asset in graph.values() if asset.stage == "evaluation"], "evaluation")
        results = stored_results(self._pipeline, graph[key].name)
        return {result.key: dict(result.metrics) for result in results}

    def files(self, name: str, pattern: str = "*") -> list[Path]:
        """Return local copies of the stored files of an asset, for example the ``*.tar`` of ``reinforced_dataset``.

        Raises:
            UserError: there is no such asset, or it is not computed.
        """
        key = find(name, self._pipeline.graph, "asset")
        return [
            artifact.fetch(file.name)
            for artifact in self._pipeline.read(key)
            for file in artifact.manifest.files
            if fnmatch(file.name, pattern)
        ]

    def reinforced(self, model: ImageTextModel, *, seed: int = 0, keys: Sequence[str] = KEYS) -> ReinforcedDataset:
        """Open the computed reinforced dataset of the profile for a training loop of one's own.

        Raises:
            UserError: the dataset is not computed.
        """
        pipeline = self._pipeline
        artifacts = pipeline.read("reinforced_dataset")
        tars, images = tars_of(artifacts, pipeline.inventory)
        dims = artifacts[0].manifest.facts["teacher_dims"]
        names = pipeline.profile.dataset_teachers
        return ReinforcedDataset(
            tars,
            model,
            seed=seed,
            keys=keys,
            images=images,
            teacher_dims={name: dims[name] for name in names},
            logit_scales={name: pipeline.profile.teacher(name).logit_scale for name in names},
        )

    def check(self) -> list[str]:
        """Return the problems of the profile and its inputs, each with what to do. One sample of each input is opened."""
        from mobileclip2.api.check import check

        return check(self._pipeline).problems

    def load(self, name: str, *, device: str = "auto") -> ImageTextModel:
        """Load a student or a teacher that was computed.

        Raises:
            UserError: the profile has no such model, or it is not computed.
        """
        return load_from_pipeline(self._pipeline, name, device=device)
