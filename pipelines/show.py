"""How plans, lineages and leftovers are shown: tables and trees for people, JSON for programs."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from mobileclip2.engine.cost import Cost
from mobileclip2.engine.gc import Stored
from mobileclip2.engine.graph import DEFAULT_SLICE
from mobileclip2.engine.lineage import Lineage, branches
from mobileclip2.engine.plan import Plan, Row, rows

SHOWN_REASONS = 4
"""of each row of the table; the JSON has all"""

SHOWN_HASHES = 4

NOT_KNOWN = "–"

UNKNOWN = {
    "samples": "the samples of a group are known when raw_shards has counted them",
    "bytes": "bytes are known when one group of the asset has been computed",
    "time": "time is known from a run on this store, or from 'rates' in the profile (samples a second of an asset or stage)",
}
"""from what each column could be known"""

COLUMNS = ("samples", "bytes", "time")


def plan_as_table(plan: Plan, *, width: int) -> str:
    """Format an asset on each line, with its cost, the reasons below it, and sums at the end. No word is broken in two.

    A column of which nothing is known is left out.
    """
    if not plan.items:
        return f"nothing to compute: all {plan.reused} parts are there\n"
    total = dict(zip(COLUMNS, cells(plan.cost), strict=True))
    columns = [name for name in COLUMNS if total[name] != NOT_KNOWN]

    def costs(cost: Cost) -> list[str]:
        return [text for name, text in zip(COLUMNS, cells(cost), strict=True) if name in columns]

    shown = rows(plan)
    table = [(" ".join(filter(None, (row.asset, *groups_and_parts(row)))), costs(row.cost), why(row)) for row in shown]
    sums = (f"{len(plan.pairs)} asset-group pairs; {plan.reused} parts are reused", costs(plan.cost), "")
    widths = [max(len(line[1][n]) for line in [*table, sums, ("", columns, "")]) for n in range(len(columns))]
    name_width = width - sum(each + 2 for each in widths)
    lines = []
    for name, cost, reasons in [("asset", list(columns), ""), *table, sums]:
        first, *more = _wrapped(name, name_width)
        lines.append(first.ljust(name_width) + "".join(f"  {text:>{n}}" for text, n in zip(cost, widths, strict=True)))
        lines += [f"  {line}" for line in more]
        lines += [f"    {line}" for line in _wrapped(reasons, width - 4)] if reasons else []
    # whatever is not known of a part is not known of the sum
    missing = [
        UNKNOWN[name]
        for name, field in zip(COLUMNS, ("samples", "bytes", "seconds"), strict=True)
        if field in plan.cost.unknown
    ]
    if missing:
        lines += _wrapped(
            f"costs that are not known yet ('{NOT_KNOWN}', '+' or no column): {'; '.join(missing)}",
            width,
        )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of whole words. A word that is longer than a line stands alone and is not broken."""
    return textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False) or [""]


def plan_as_json(plan: Plan) -> str:
    def cost(of: Cost) -> dict[str, Any]:
        return {**asdict(of), "unknown": sorted(of.unknown)}

    items = [
        {
            "asset": item.asset,
            "part": item.part,
            "group": item.group,
            "reasons": list(item.reasons),
            "cost": cost(item.cost),
        }
        for item in plan.items
    ]
    return json.dumps({"items": items, "reused": plan.reused, "cost": cost(plan.cost)}, indent=1) + "\n"


def lineage_as_tree(found: Lineage, *, width: int) -> str:
    """From the root down to shards and weights; a branch that comes again is not repeated."""
    assets = branches(found)
    shown: set[str] = set()

    def add(tree: Tree, key: str) -> None:
        asset = assets[key]
        label = Text(key, style="bold").append(f"  {_hashes(asset['fingerprints'])}", style="dim")
        if key in shown:
            tree.add(label.append("  as above"))
            return
        shown.add(key)
        branch = tree.add(label)
        for role, hashes in asset["outside"].items():
            branch.add(Text(f"{role}  {_hashes(hashes)}"))
        for source in asset["made_from"]:
            add(branch, source)

    root = Tree("", hide_root=True, guide_style="dim")
    add(root, found.asset)
    return _printed(root, width)


def unneeded_as_table(outputs: list[Stored], *, width: int, deleted: bool) -> str:
    """By asset, what can go or is gone."""
    if not outputs:
        return "nothing to delete: every stored output is needed\n"
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    table.add_column("asset", footer="deleted" if deleted else "delete them with --delete")
    table.add_column("outputs", justify="right", footer=str(len(outputs)))
    table.add_column("files", justify="right", footer=str(sum(each.files for each in outputs)))
    table.add_column("bytes", justify="right", footer=_bytes(sum(each.bytes for each in outputs)))
    table.add_column("fingerprints", overflow="fold")
    for key in dict.fromkeys(each.asset for each in outputs):
        mine = [each for each in outputs if each.asset == key]
        size, files = sum(each.bytes for each in mine), sum(each.files for each in mine)
        fingerprints = dict.fromkeys(each.fingerprint + ("" if each.finished else " (unfinished)") for each in mine)
        table.add_row(key, str(len(mine)), str(files), _bytes(size), ", ".join(fingerprints))
    return _printed(table, width)


def _printed(shown: Table | Tree, width: int) -> str:
    written = StringIO()
    Console(file=written, width=width).print(shown)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def _hashes(hashes: list[str]) -> str:
    different = list(dict.fromkeys(hashes))
    text = ", ".join(each[:16] for each in different[:SHOWN_HASHES])
    return text + (f" and {len(different) - SHOWN_HASHES} more" if len(different) > SHOWN_HASHES else "")


def cells(cost: Cost) -> tuple[str, str, str]:
    """Samples, bytes and time of a cost; ``+`` marks a lower bound, :data:`NOT_KNOWN` that nothing is known."""
    values = {
        "samples": (cost.samples, f"{cost.samples:,}"),
        "bytes": (cost.bytes, _bytes(cost.bytes)),
        "seconds": (cost.seconds, _time(cost.seconds)),
    }
    samples, size, seconds = (
        (f"{text}+" if value else NOT_KNOWN) if name in cost.unknown else text for name, (value, text) in values.items()
    )
    return samples, size, seconds


def groups_and_parts(row: Row) -> tuple[str, str]:
    """Each as a span, ``g00..g03 (4)``; empty where there is only one thing it could be."""
    groups = "" if row.groups == (None,) else _span([str(group) for group in row.groups])
    return groups, "" if row.parts == (DEFAULT_SLICE,) else _span(list(row.parts))


def why(row: Row) -> str:
    """The first reasons of a row."""
    more = len(row.reasons) - SHOWN_REASONS
    return "; ".join(row.reasons[:SHOWN_REASONS]) + (f"; and {more} more" if more > 0 else "")


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}..{names[-1]} ({len(names)})"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
