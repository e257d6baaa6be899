"""The icon sets of the drawings: the icon name of a concept, and the SVG of an icon."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from demo.concepts import Concept, slug
from mobileclip2.errors import UserError

EMOJIBASE = ("emojibase-data", "17.0.0")


@dataclass(frozen=True)
class Artist:
    """An icon set in an Iconify package. If ``codes_of`` is given, that package has the code points of its icons."""

    name: str
    package: str
    version: str
    license: str
    codes_of: str | None = None
    hyphens: bool = True


# Fluent has no code points, but it uses the icon names of Fluent Flat. Firefox writes names as one word.
# The fxemoji package says Apache-2.0, but the license file of Mozilla states CC-BY-4.0 for the drawings.
TRAINING = (
    Artist("twemoji", "@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", codes_of="@iconify-json/twemoji"),
    Artist("emojione", "@iconify-json/emojione", "1.2.3", "CC-BY-4.0"),
    Artist("fxemoji", "@iconify-json/fxemoji", "1.2.2", "CC-BY-4.0", hyphens=False),
    Artist("fluent", "@iconify-json/fluent-emoji", "1.2.7", "MIT", codes_of="@iconify-json/fluent-emoji-flat"),
    Artist(
        "fluent-flat",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "MIT",
        codes_of="@iconify-json/fluent-emoji-flat",
    ),
)
TEST = (
    Artist("noto", "@iconify-json/noto", "1.2.9", "Apache-2.0", codes_of="@iconify-json/noto"),
    Artist("noto-v1", "@iconify-json/noto-v1", "1.2.5", "Apache-2.0"),
)
FLUENT_FAMILY = ("fluent", "fluent-flat")


def package_folder(packages: Path, name: str, version: str) -> Path:
    """Return the folder of an npm package, after checking that it has the pinned version.

    Raises:
        UserError: the package is missing or has another version.
    """
    for folder in (packages / "node_modules" / name, packages / name):
        manifest = folder / "package.json"
        if manifest.is_file():
            found = json.loads(manifest.read_text("utf-8"))["version"]
            if found != version:
                raise UserError(f"{folder} has version {found}, not {version}: run `npm install {name}@{version}`")
            return folder
    raise UserError(f"no package {name} in {packages}: run `npm install --prefix {packages} {name}@{version}`")


@dataclass
class IconSet:
    """The icons of an artist, as stored in the package."""

    artist: Artist
    icons: dict[str, Any]
    codes: dict[str, str] | None

    @classmethod
    def read(cls, artist: Artist, packages: Path) -> IconSet:
        folder = package_folder(packages, artist.package, artist.version)
        codes = None
        if artist.codes_of:
            (source,) = (other for other in (*TRAINING, *TEST) if other.package == artist.codes_of)
            chars = package_folder(packages, source.package, source.version) / "chars.json"
            codes = json.loads(chars.read_text("utf-8"))
        return cls(artist, json.loads((folder / "icons.json").read_text("utf-8")), codes)

    @cached_property
    def _names(self) -> dict[str, str]:
        """Return the icon of each name and alias. Aliases that rotate or flip their icon are left out."""
        names = {
            alias: entry["parent"] for alias, entry in self.icons.get("aliases", {}).items() if set(entry) == {"parent"}
        }
        names |= {name: name for name in self.icons["icons"]}
        return {key if self.artist.hyphens else key.replace("-", ""): icon for key, icon in names.items()}

    def icon_name(self, concept: Concept) -> str | None:
        """Return the icon name of a concept: by code point if the set has them, else by the slug of its label."""
        if self.codes is not None:
            code = concept.hexcode.lower()
            name = self.codes.get(code) or self.codes.get(code.replace("-fe0f", ""))
        else:
            name = slug(concept.label) if self.artist.hyphens else slug(concept.label).replace("-", "")
        return self._names.get(name) if name else None

    def svg(self, icon: str) -> str:
        """Return the icon as an SVG document that fills its view box."""
        entry = self.icons["icons"][icon]
        left, top, width, height = (
            entry.get(side, self.icons.get(side, default))
            for side, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="512" height="512" viewBox="{left} {top} {width} {height}">{entry["body"]}</svg>'
        )
