"""``dvc.yaml``: the asset graph of a profile as DVC stages, one for each asset."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import yaml

from mobileclip2.config.model import Model, Weights
from mobileclip2.config.profile import Profile
from mobileclip2.engine.external import External, Folder, GroupShards
from mobileclip2.engine.graph import Asset, Graph
from mobileclip2.ledger import paths
from mobileclip2.ledger.params import params


def ledger_folder(profile: Profile) -> Path:
    """Return the folder of ``dvc.yaml``."""
    assert profile.ledger is not None
    return Path(profile.locate(profile.ledger))


def header(profile: Profile) -> str:
    """Return the first line of ``dvc.yaml``, which names the profile that owns it."""
    return f"# The asset graph of {profile_file(profile)}, written by mobileclip2; change the profile instead.\n"


def profile_file(profile: Profile) -> str:
    """Return the path of the profile's file, relative to the ledger's folder."""
    return Path(os.path.relpath(profile.file, ledger_folder(profile))).as_posix()


def pipeline_text(profile: Profile, graph: Graph) -> str:
    """Render ``dvc.yaml`` from a profile and its graph alone."""
    content = {
        "stages": {paths.stage_name(asset.key): _stage(profile, asset) for asset in graph.values()},
        # without the profile, `dvc params diff` merges list items of different stages incorrectly
        "params": [paths.params_file(profile), profile_file(profile)],
        "plots": [plot for asset in graph.values() for plot in _plots(profile, asset)],
    }
    return header(profile) + yaml.safe_dump(content, sort_keys=False, width=1000, allow_unicode=True)


def evaluated_on(profile: Profile, asset: Asset) -> list[str]:
    """Return the evaluation sets on which an asset is evaluated during its training."""
    return list(profile.student(asset.name).evaluate_on) if asset.stage == "student" else []


def files_in_git(profile: Profile, asset: Asset) -> dict[str, str]:
    """Return the paths of the ledger's files of an asset by their content: its outputs, curves of a training, and metrics."""
    root = paths.root(profile)
    files = {"outputs": paths.asset_file(profile, asset.key)}
    if asset.trains and asset.stage != "study":  # a study stores scores only
        files["loss"] = f"{root}/curves/{asset.key}.loss.csv"
    if evaluated_on(profile, asset):
        files["accuracy"] = f"{root}/curves/{asset.key}.accuracy.csv"
    if asset.stage == "evaluation":
        files["metrics"] = f"{root}/metrics/{asset.name}.json"
    return files


def _stage(profile: Profile, asset: Asset) -> dict[str, Any]:
    stage: dict[str, Any] = {
        "desc": asset.description,
        "cmd": f"mobileclip2 run {asset.key} --profile {shlex.quote(profile_file(profile))}",
    }
    externals = [external for slice_ in asset.slices.values() for external in slice_.externals.values()]
    local = [path for external in externals for path in _local_paths(profile, external)]
    if deps := [*(paths.asset_file(profile, upstream) for upstream in asset.upstream), *dict.fromkeys(local)]:
        stage["deps"] = deps
    if fields := params(profile, asset):
        stage["params"] = [{profile_file(profile): fields}]
    files = files_in_git(profile, asset)
    stage["outs"] = [_in_git(path) for content, path in files.items() if content != "metrics"]
    if asset.stage == "student":
        stage["outs"].append(paths.checkpoint_folder(asset.name))
    if "metrics" in files:
        stage["metrics"] = [_in_git(files["metrics"])]
    return stage


def _in_git(path: str) -> dict[str, Any]:
    return {path: {"cache": False}}


def _plots(profile: Profile, asset: Asset) -> list[dict[str, Any]]:
    files = files_in_git(profile, asset)
    columns = {"loss": "loss", "accuracy": evaluated_on(profile, asset)}
    return [
        {f"{asset.key} {content}": {"x": "step", "y": {files[content]: drawn}}}
        for content, drawn in columns.items()
        if content in files
    ]


def _local_paths(profile: Profile, external: External) -> list[str]:
    """Return the paths of an external input in the ledger's folder. The ledger's files have the hashes of inputs elsewhere."""
    urls: list[str | tuple[str, ...]]
    match external:
        case GroupShards(reinforced):
            urls = [source.url for source in profile.sources]
            if reinforced:
                urls = [profile.reinforced_shards(reinforced).url]
        case Folder(url):
            urls = [url]
        case Weights():
            urls = [external.path] if external.path else []
        case Model():
            urls = []
    root = ledger_folder(profile)
    local = [Path(profile.locate(url)) for each in urls for url in _folders(each) if not url.startswith("s3://")]
    return [path.relative_to(root).as_posix() for path in local if root in path.parents]


def _folders(urls: str | tuple[str, ...]) -> list[str]:
    """Return the folders of locations: braces stand for many files, and DVC hashes their folder as well."""
    each = (urls,) if isinstance(urls, str) else urls
    return [url if "{" not in url else url.partition("{")[0].rpartition("/")[0] for url in each]
