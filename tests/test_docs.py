"""The documentation says what the code does: profiles parse, links resolve, fields, reasons and messages exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from mobileclip2 import errors
from mobileclip2.config import compute, profile
from mobileclip2.config.augmentation import Augmentation, RandAugment, Rendering
from mobileclip2.config.captioner import Captioner, CoCaConfig, GenerationSettings
from mobileclip2.config.dataset import Dataset, Views
from mobileclip2.config.filters import Filters
from mobileclip2.config.gate import Gate
from mobileclip2.config.model import Model, PreprocessSettings, Weights
from mobileclip2.config.sources import Corpus, EvaluationSource, Images, ReinforcedShards, ReinforcedTeacher, Source
from mobileclip2.config.student import Loss, Pick, Student, WiseFT
from mobileclip2.config.study import Study, StudyRow
from mobileclip2.config.teacher import Locked, Teacher
from mobileclip2.config.training import TrainSettings

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = {
    path: path.read_text() for name in ("mobileclip2", "assets", "pipelines") for path in (ROOT / name).rglob("*.py")
}
SMALLEST = {"name": "page", "store": "store", "sources": [{"url": "shards"}]}

SECTIONS: dict[str, type[BaseModel]] = {
    "Profile": profile.Profile,
    "Source": Source,
    "Reinforced": ReinforcedShards,
    "Reinforced teacher": ReinforcedTeacher,
    "Images": Images,
    "Filters": Filters,
    "Views": Views,
    "Augmentation": Augmentation,
    "RandAugment": RandAugment,
    "Caption corpora": Corpus,
    "Captioners": Captioner,
    "Small CoCa": CoCaConfig,
    "Generation": GenerationSettings,
    "Teachers": Teacher,
    "Locked": Locked,
    "Model": Model,
    "Preprocess": PreprocessSettings,
    "Weights": Weights,
    "Dataset": Dataset,
    "Students": Student,
    "Render": Rendering,
    "Between": WiseFT,
    "Pick": Pick,
    "Loss": Loss,
    "Studies": Study,
    "Row": StudyRow,
    "Train": TrainSettings,
    "Evaluation": EvaluationSource,
    "Compute": compute.ComputeSettings,
    "Kubernetes": compute.Kubernetes,
    "Pods": compute.Pods,
    "Toleration": compute.Toleration,
    "Gate": Gate,
}


def yaml_blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.S | re.M)):
            yield f"{page.name}-{number}", block


BLOCKS = dict(yaml_blocks())


@pytest.mark.parametrize("block", BLOCKS)
def test_yaml_is_a_profile_or_a_part_of_one(block):
    values = {**SMALLEST, **yaml.safe_load(BLOCKS[block])}
    profile.parse(yaml.safe_dump(values, sort_keys=False), origin=ROOT / "docs" / "page.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link


def test_the_site_lists_every_page_and_package():
    navigation = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    pages = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md")}
    packages = {f"api/{package.parent.name}.md" for package in (ROOT / "mobileclip2").glob("*/__init__.py")}
    assert {page for page in navigation if page.startswith(("docs/", "api/"))} == pages | packages


def test_the_architecture_page_shows_the_layers_that_the_linter_checks():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    *outer, _ = contracts[0]["layers"]
    checked = [set(re.split(r" [:|] ", layer)) for layer in outer + contracts[1]["layers"]]
    body = (ROOT / "docs" / "architecture.md").read_text().split("## ")[1]
    assert [set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| (`[^|]+) \|", body, re.M)] == checked


def table(section: str) -> dict[str, tuple[str, str]]:
    """Return the default and the *bytes* cell of each field in a section of docs/profiles.md."""
    text = (ROOT / "docs" / "profiles.md").read_text()
    body = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    assert body, f"docs/profiles.md has no section {section}"
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) ?\|", body[1], re.M)
    return {name: (default, changes) for name, default, changes in rows}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_is_described(section):
    fields = {name: field for name, field in SECTIONS[section].model_fields.items() if not field.exclude}
    rows = table(section)
    assert set(rows) == set(fields)
    for name, field in fields.items():
        stated, changes = rows[name]
        default = field.get_default(call_default_factory=True)
        extra = field.json_schema_extra
        assert (changes.strip() == "no") == (isinstance(extra, dict) and bool(extra.get("undeclared"))), name
        if field.is_required():
            assert stated == "required", name
        elif default is None or default == ():
            assert stated == "–", name
        elif isinstance(default, BaseModel):
            assert stated == "see below", name
        else:
            parsed = yaml.safe_load(stated)
            actual = list(default) if isinstance(default, tuple) else default
            numbers = isinstance(actual, list) and not isinstance(actual[0], str)
            assert parsed == (pytest.approx(actual, abs=1e-3) if numbers else actual), name


def reasons() -> set[str]:
    """Return the slugs of all reasons for which samples and captions are left out."""
    found = {
        slug
        for text in SOURCES.values()
        for slug in re.findall(r'"((?:missing|bad)-(?:view|caption|embedding))"', text)
    }
    found |= {slug for text in SOURCES.values() for slug in re.findall(r'BadSample\(\s*"([a-z0-9-]+)"', text)}
    selection = SOURCES[ROOT / "mobileclip2" / "stages" / "selection.py"].partition("LOW, ")[2].partition("\n")[0]
    found |= set(re.findall(r'"([a-z-]+)"', selection))
    image = SOURCES[ROOT / "mobileclip2" / "data" / "image.py"]
    found |= set(re.findall(r'"((?:truncated|broken)-image)"', image))
    degenerate = SOURCES[ROOT / "mobileclip2" / "captioners" / "sentences.py"].partition("def degenerate")[2]
    return found | set(re.findall(r'return "([a-z-]+)"', degenerate.partition("\ndef ")[0]))


def test_every_reason_is_explained():
    page = (ROOT / "docs" / "errors.md").read_text()
    explained = set(re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.M))
    assert len(reasons()) > 20
    assert reasons() == explained


def test_every_error_class_is_documented():
    page = (ROOT / "docs" / "errors.md").read_text()
    names = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_row_of_the_security_page_names_a_test():
    page = (ROOT / "docs" / "security.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| what holds")]
    named = [re.fullmatch(r"\| .+ \| `(tests/[\w/]+\.py)` \|", row) for row in rows]
    assert len(rows) > 15 and all(named)
    assert [match[1] for match in named if match and not (ROOT / match[1]).is_file()] == []


def test_every_quoted_message_exists():
    """A quoted message has ``…`` where the code inserts a value."""
    joined = "\n".join(re.sub(r'"\s*\n\s*f?"', "", text) for text in SOURCES.values())
    page = (ROOT / "docs" / "errors.md").read_text().partition("## Messages")[2]
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    assert len(quoted) > 30
    for message in quoted:
        for piece in message.split("…"):
            assert piece.strip() in joined, f"'{piece.strip()}' of '{message}'"


def test_the_glossary_is_short_and_sorted():
    terms = re.findall(r"^\| ([^|]+?) \|", (ROOT / "docs" / "glossary.md").read_text(), flags=re.MULTILINE)[1:]
    assert 20 < len(terms) <= 30 and terms == sorted(terms)
