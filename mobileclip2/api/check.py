"""Check a profile with its data and models before a run. One sample of each input is opened, and nothing is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from mobileclip2.api.check_data import (
    Opened,
    OpenedSet,
    OpenedShards,
    open_evaluation_set,
    open_reinforced,
    open_shards,
)
from mobileclip2.config.location import expand
from mobileclip2.config.model import Weights
from mobileclip2.config.profile import Profile
from mobileclip2.config.sources import Corpus, Images, ReinforcedShards, Source
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.listing import ListedFile, list_unread
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.source_inventory import SourceInventory
from mobileclip2.errors import UserError
from mobileclip2.progress import doing

if TYPE_CHECKING:
    from mobileclip2.api.check_models import SizedModel


@dataclass
class Checked:
    """What a check found, by name. A profile with ``problems`` cannot run."""

    problems: list[str] = field(default_factory=list)
    """a message for each problem, with what to do"""
    sources: list[OpenedShards] = field(default_factory=list)
    corpora: dict[str, OpenedShards] = field(default_factory=dict)
    reinforced: dict[str, Opened] = field(default_factory=dict)
    unread: dict[str, list[str]] = field(default_factory=dict)
    """files beside the shards that seem to be forgotten, by the field of the shards"""
    sets: dict[str, OpenedSet] = field(default_factory=dict)
    models: dict[str, SizedModel] = field(default_factory=dict)
    """by asset"""
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    """commit by repository, for each field that names a model of the hub"""

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add the message of a ``UserError`` to the problems."""
        try:
            yield
        except UserError as error:
            message = str(error)
            if message not in self.problems:
                self.problems.append(message)


def check(pipeline: Pipeline) -> Checked:
    """Open one sample of every source, corpus and evaluation set, resolve every weight, and size every model.

    It opens one shard of each input, so that its time does not grow with the data. The store is not needed.
    """
    checked = Checked()
    inventory = SourceInventory(pipeline.profile)  # not the pipeline's, which needs the store
    _check_data(pipeline.profile, inventory, checked)
    with doing("looking for weights"):
        _check_weights(pipeline, inventory, checked)
    _check_models(pipeline, inventory, checked)
    return checked


def _check_data(profile: Profile, inventory: SourceInventory, checked: Checked) -> None:
    def list_shards(field: str, source: Source | Corpus | ReinforcedShards | Images, section: str) -> list[ListedFile]:
        files = inventory.list_shards(field, source.url, source.pattern, section)
        checked.unread[field] = list_unread([profile.locate(each) for each in expand(source.url)], source.pattern)
        return files

    for source in profile.sources:
        field = f"source '{source.name}'"
        with doing(f"opening {source.name}"), checked.collecting():
            files = list_shards(field, source, "sources")
            checked.sources.append(open_shards(field, files, profile.filters, source.caption_keys or ()))
    for corpus in profile.caption_corpora:
        field = f"caption corpus '{corpus.name}'"
        with doing(f"opening {corpus.name}"), checked.collecting():
            files = list_shards(field, corpus, "caption_corpora")
            checked.corpora[corpus.name] = open_shards(field, files, profile.filters, corpus.caption_keys or ())
    for published in profile.reinforced:
        field = f"reinforced '{published.name}'"
        with doing(f"opening {published.name}"), checked.collecting():
            files = list_shards(field, published, "reinforced")
            dims = {teacher.name: teacher.dim for teacher in published.teachers}
            checked.reinforced[published.name] = open_reinforced(field, files, dims)
            if published.images:
                list_shards(f"images of '{published.name}'", published.images, "reinforced")
    for each in profile.evaluation:
        with doing(f"opening {each.name}"), checked.collecting():
            checked.sets[each.name] = open_evaluation_set(each.name, profile.locate(each.url))


def _check_weights(pipeline: Pipeline, inventory: SourceInventory, checked: Checked) -> None:
    """Find every weight: files on this machine with their pinned hash, models of the hub without a download."""
    from mobileclip2.stages.published_weights import check_published_weights

    for asset in pipeline.graph.values():
        for slice_ in asset.slices.values():
            for external in slice_.externals.values():
                if isinstance(external, Weights) and not external.tag:
                    with checked.collecting():
                        inventory.weights_path(external)
        if asset.stage in {"teacher", "captioner", "student", "study"}:
            with checked.collecting():
                checked.commits |= check_published_weights(pipeline, [asset.key], stored=True)


def _check_models(pipeline: Pipeline, inventory: SourceInventory, checked: Checked) -> None:
    """Build each model of the profile on the meta device. Equal models are built once."""
    from mobileclip2.stages.published_weights import model_of

    profile = pipeline.profile
    built: dict[str, SizedModel] = {}

    def size(asset: Asset) -> SizedModel | None:
        # it imports torch, which a profile without models does not need
        from mobileclip2.api.check_models import size_captioner, size_locked, size_model

        model, name = model_of(profile, asset)
        if model and model.hub and name not in checked.commits:
            return None  # the hub's answer is among the problems
        commits = checked.commits.get(name, {})
        if asset.stage == "captioner":
            captioner = profile.captioner(asset.name)
            key = repr((captioner.model, captioner.small, captioner.train))
            make = partial(size_captioner, f"captioners.{asset.name}", captioner, commits)
        elif asset.stage == "teacher" and (spec := profile.teacher(asset.name).locked):
            file = inventory.weights_file(spec.text_weights)
            key, make = repr(spec), partial(size_locked, f"teachers.{asset.name}.locked", spec, file)
        else:
            assert model
            train = profile.student(asset.name).train if asset.stage == "student" else None
            key, make = repr((model, train)), partial(size_model, name, model, commits, train)
        if key not in built:
            built[key] = make()
        return built[key]

    for asset in pipeline.graph.values():
        if asset.stage in {"teacher", "captioner", "student"} and not _origin(profile, asset):
            with doing(f"building {asset.key}"), checked.collecting():
                if sized := size(asset):
                    checked.models[asset.key] = sized
    for asset in pipeline.graph.values():
        if (origin := _origin(profile, asset)) in checked.models:
            checked.models[asset.key] = checked.models[origin]


def _origin(profile: Profile, asset: Asset) -> str:
    """Return the asset with the architecture of this one, or an empty string if the profile names its model."""
    match asset.stage:
        case "captioner":
            base = profile.captioner(asset.name).base
            return f"captioner/{base}" if base else ""
        case "student":
            student = profile.student(asset.name)
            name = student.base or (student.between.to if student.between else "")
            return f"student/{name}" if name else ""
        case "study":
            return f"student/{profile.study(asset.name).student}"
    return ""
