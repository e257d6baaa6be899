"""Download the towers of a locked teacher from the hub: trunks of timm and text encoders of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mobileclip2.config.teacher import Locked
from mobileclip2.errors import WeightsError
from mobileclip2.models.hub import REMEDY, TOKENIZER_FILES, Listing, explained, listing
from mobileclip2.teachers.text_encoder import POOLING
from mobileclip2.teachers.trunk import trunk_config

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Alternative names of the weights in a repository. The first that exists is used."""


@dataclass
class Towers:
    """Local files of both towers."""

    trunk: Path
    text: Path
    """weights of the text encoder, with its configuration and tokenizer in the same folder"""
    stored: dict[str, Path]
    """downloaded files, by the name under which the teacher stores them"""
    commits: dict[str, str]
    """commit by repository"""


def find_towers(spec: Locked, name: str = "locked") -> list[tuple[str, Listing]]:
    """Find the repositories of the towers that come from the hub, and check that they have weights. Download no weights.

    Return ``trunk`` and ``text``, each with the files of its commit. ``name`` is the field of the profile in error messages.

    Raises:
        WeightsError: the hub cannot be reached, or does not have a repository, a commit or a file.
    """
    wanted = []
    if spec.trunk_weights.tag:
        published = trunk_config(spec).hf_hub_id
        if not published:
            raise WeightsError(
                f"teacher: timm publishes no weights of '{spec.trunk}' on the hub; set 'locked.trunk_weights.path'"
            )
        wanted.append(("trunk", "trunk_weights.tag", published.partition("@")[0], spec.trunk_revision))
    if spec.text:
        wanted.append(("text", "text", spec.text, spec.text_revision))
    found = []
    for tower, origin, repository, commit in wanted:
        with explained(f"{name}.{origin}: the weights {repository}", REMEDY):
            listed = listing(repository, commit)
            listed.first(WEIGHT_FILES)
        found.append((tower, listed))
    return found


def download_towers(spec: Locked, trunk: Path | None, text: Path | None) -> Towers:
    """Return the local files of both towers. ``trunk`` and ``text`` are given for those that are not on the hub.

    Raises:
        WeightsError: a file cannot be downloaded.
    """
    stored: dict[str, Path] = {}
    commits: dict[str, str] = {}
    for tower, listed in find_towers(spec):
        commits[listed.repository] = listed.commit
        with explained(f"teacher: the files of {listed.repository}", REMEDY):
            if tower == "trunk":
                trunk = listed.file(listed.first(WEIGHT_FILES))
                stored[f"trunk{trunk.suffix}"] = trunk
            else:
                text = listed.file(listed.first(WEIGHT_FILES))
                names = [text.name, *(name for name in TOKENIZER_FILES if name in listed.names)]
                # the listing of a cache has the names of folders
                if {POOLING, Path(POOLING).parent.name} & listed.names:
                    names.append(POOLING)
                stored |= {f"text/{name}": listed.file(name) for name in names}
    assert trunk and text
    return Towers(trunk, text, stored, commits)
