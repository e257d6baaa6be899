"""Render our own chart without Helm. The chart uses only the few template actions that this module supports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "k8s" / "chart"
NAMESPACE = "mobileclip2"
WORDS = re.compile(r"(?P<before>\s*)\{\{(?P<eats>-?) (?P<words>.*?) \}\}")


def merged(base: Any, over: Any) -> Any:
    """Merge values over others as Helm does: maps are merged, all other values are replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}
    return over


def values_of(*files: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for file in files:
        values = merged(values, yaml.safe_load(file.read_text()))
    return values


def manifests(*files: Path) -> list[dict[str, Any]]:
    """Return all manifests that the chart renders from its own values and the files of values over them."""
    values = values_of(CHART / "values.yaml", *files)
    texts = [render(path.read_text(), values) for path in sorted((CHART / "templates").glob("*.yaml"))]
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


def render(template: str, values: dict[str, Any]) -> str:
    """Render a template: first the blocks, from the innermost outwards, then the values."""
    block = re.compile(r"\s*\{\{- (if|range) (\S+) \}\}((?:(?!\{\{- (?:if|range) ).)*?)\s*\{\{- end \}\}", re.S)
    while found := block.search(template):
        value = look_up(found[2], values)
        if found[1] == "if":
            text = found[3] if value else ""
        else:
            text = "".join(found[3].replace("{{ . }}", str(each)) for each in value)
        template = template[: found.start()] + text + template[found.end() :]
    return WORDS.sub(lambda match: substitute(match, values), template)


def substitute(match: re.Match[str], values: dict[str, Any]) -> str:
    first, *pipes = match["words"].split(" | ")
    name = first.removeprefix("toYaml ")
    value = look_up(name, values)
    text = yaml.safe_dump(value, default_flow_style=not value).strip() if name != first else value
    for pipe in pipes:
        if pipe == "quote":
            text = yaml.dump(str(text), default_style='"', width=10**9).strip()
        elif found := re.fullmatch(r"nindent (\d+)", pipe):
            text = "".join(f"\n{' ' * int(found[1])}{line}" for line in str(text).splitlines())
        else:
            raise AssertionError(f"{pipe}: not known here")
    return ("" if match["eats"] else match["before"]) + str(text)


def look_up(name: str, values: dict[str, Any]) -> Any:
    if name == ".Release.Namespace":
        return NAMESPACE
    assert name.startswith(".Values."), name
    found: Any = values
    for part in name.removeprefix(".Values.").split("."):
        found = found[part]
    return found
