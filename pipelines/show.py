"""Format plans, lineages and unneeded outputs as tables, trees and JSON."""

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

from mobileclip2.asset_key import AssetKey
from mobileclip2.engine.cost import Cost
from mobileclip2.engine.gc import Stored
from mobileclip2.engine.graph import DEFAULT_SLICE
from mobileclip2.engine.lineage import Lineage, branches
from mobileclip2.engine.plan import Plan, PlanRow, rows
from pipelines.tables import NOT_KNOWN, amount, duration

SHOWN_REASONS = 4
"""maximum for each row of the table; the JSON has all"""

SHOWN_HASHES = 4

UNKNOWN = {
    "samples": "the samples of a group are known when raw_shards has counted them",
    "bytes": "bytes are known when one group of the asset has been computed",
    "time": "time is known from a run on this store, or from 'rates' in the profile (samples a second of an asset or stage)",
}
"""for each column, where its values come from"""

COLUMNS = {"samples": "samples", "bytes": "bytes", "time": "seconds"}
"""for each column, the field of a cost that it shows"""


def plan_as_table(plan: Plan, *, width: int) -> str:
    """Format the plan as a table: a line for each asset with its cost, the reasons below it, and totals at the end.

    A column without a known value is left out. Words are not broken.
    """
    if not plan.items:
        return f"nothing to compute: all {plan.reused} slices are stored\n"
    columns = [name for name, total in cells(plan.cost).items() if total != NOT_KNOWN]

    def costs(cost: Cost) -> list[str]:
        return [text for name, text in cells(cost).items() if name in columns]

    table = [
        (" ".join(filter(None, (row.asset, *groups_and_slices(row)))), costs(row.cost), why(row)) for row in rows(plan)
    ]
    totals = (f"{len(plan.pairs)} asset-group pairs; {plan.reused} slices are reused", costs(plan.cost), "")
    widths = [max(len(line[1][n]) for line in [*table, totals, ("", columns, "")]) for n in range(len(columns))]
    name_width = width - sum(column + 2 for column in widths)
    lines = []
    for name, cost, reasons in [("asset", list(columns), ""), *table, totals]:
        first, *more = _wrapped(name, name_width)
        lines.append(first.ljust(name_width) + "".join(f"  {text:>{n}}" for text, n in zip(cost, widths, strict=True)))
        lines += [f"  {line}" for line in more]
        lines += [f"    {line}" for line in _wrapped(reasons, width - 4)] if reasons else []
    # the total lacks every value that a row lacks
    missing = [UNKNOWN[name] for name, field in COLUMNS.items() if field in plan.cost.unknown]
    if missing:
        lines += _wrapped(
            f"costs that are not known yet ('{NOT_KNOWN}', '+' or no column): {'; '.join(missing)}",
            width,
        )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def plan_as_markdown(plan: Plan) -> str:
    """Format the plan as Markdown for a pull request's comment: the totals, and a folded table with a line for each asset."""
    heading = "### Cost of what is not stored\n\n"
    if not plan.items:
        return f"{heading}Nothing: all {plan.reused} slices are stored.\n"
    lines = ["| asset | groups and slices | samples | bytes | time | why |", "|---|---|--:|--:|--:|---|"]
    for row in rows(plan):
        spans = " ".join(filter(None, groups_and_slices(row)))
        reasons = why(row).replace("|", "\\|")
        lines.append(f"| {' | '.join((row.asset, spans, *cells(row.cost).values(), reasons))} |")
    costs = ", ".join(f"{name} {value}" for name, value in cells(plan.cost).items())
    totals = f"{len(plan.pairs)} asset-group pairs; {plan.reused} slices are reused; {costs}"
    return f"{heading}<details><summary>{totals}</summary>\n\n" + "\n".join(lines) + "\n\n</details>\n"


def _wrapped(text: str, width: int) -> list[str]:
    """Wrap text at spaces. A word that is longer than a line is not broken."""
    return textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False) or [""]


def plan_as_json(plan: Plan) -> str:
    """Format the plan as JSON."""

    def as_dict(cost: Cost) -> dict[str, Any]:
        return {**asdict(cost), "unknown": sorted(cost.unknown)}

    items = [
        {
            "asset": item.asset,
            "part": item.slice,
            "group": item.group,
            "reasons": list(item.reasons),
            "cost": as_dict(item.cost),
        }
        for item in plan.items
    ]
    return json.dumps({"items": items, "reused": plan.reused, "cost": as_dict(plan.cost)}, indent=1) + "\n"


def lineage_as_tree(lineage: Lineage, *, width: int) -> str:
    """Format a lineage as a tree from the asset down to shards and weights. A repeated branch is shown once."""
    assets = branches(lineage)
    shown: set[AssetKey] = set()
    root = Tree("", hide_root=True, guide_style="dim")
    pending = [(root, lineage.asset)]
    while pending:  # a file can have more levels than Python can recurse
        tree, key = pending.pop()
        asset = assets[key]
        label = Text(key, style="bold").append(f"  {_hashes(asset['fingerprints'])}", style="dim")
        if key in shown:
            tree.add(label.append("  as above"))
            continue
        shown.add(key)
        branch = tree.add(label)
        for role, hashes in asset["outside"].items():
            branch.add(Text(f"{role}  {_hashes(hashes)}"))
        pending += [(branch, source) for source in reversed(asset["made_from"])]
    return _to_text(root, width)


def unneeded_as_table(outputs: list[Stored], *, width: int, deleted: bool) -> str:
    """Format the outputs that can be deleted, or were deleted, as a table by asset."""
    if not outputs:
        return "nothing to delete: every stored output is needed\n"
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    table.add_column("asset", footer="deleted" if deleted else "delete them with --delete")
    table.add_column("outputs", justify="right", footer=str(len(outputs)))
    table.add_column("files", justify="right", footer=str(sum(output.files for output in outputs)))
    table.add_column("bytes", justify="right", footer=amount(sum(output.bytes for output in outputs)))
    table.add_column("fingerprints", overflow="fold")
    for key in dict.fromkeys(output.asset for output in outputs):
        of_asset = [output for output in outputs if output.asset == key]
        size, files = sum(output.bytes for output in of_asset), sum(output.files for output in of_asset)
        fingerprints = dict.fromkeys(o.fingerprint + ("" if o.finished else " (unfinished)") for o in of_asset)
        table.add_row(key, str(len(of_asset)), str(files), amount(size), ", ".join(fingerprints))
    return _to_text(table, width)


def _to_text(renderable: Table | Tree, width: int) -> str:
    written = StringIO()
    Console(file=written, width=width, markup=False, emoji=False).print(renderable)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def _hashes(hashes: list[str]) -> str:
    unique = list(dict.fromkeys(hashes))
    text = ", ".join(digest[:16] for digest in unique[:SHOWN_HASHES])
    return text + (f" and {len(unique) - SHOWN_HASHES} more" if len(unique) > SHOWN_HASHES else "")


def cells(cost: Cost) -> dict[str, str]:
    """Format a cost by column. ``+`` marks a lower bound, :data:`NOT_KNOWN` an unknown value."""
    texts = {"samples": f"{cost.samples:,}", "bytes": amount(cost.bytes), "time": duration(cost.seconds)}
    for name, field in COLUMNS.items():
        if field in cost.unknown:
            texts[name] = f"{texts[name]}+" if getattr(cost, field) else NOT_KNOWN
    return texts


def groups_and_slices(row: PlanRow) -> tuple[str, str]:
    """Format the groups and slices of a row as spans such as ``g00..g03 (4)``. Empty if the asset has only one.

    The slices of an evaluation are its groups, and are not repeated.
    """
    groups = "" if row.groups == (None,) else _span([str(group) for group in row.groups])
    return groups, "" if row.slices in {(DEFAULT_SLICE,), row.groups} else _span(list(row.slices))


def why(row: PlanRow) -> str:
    """Format the first :data:`SHOWN_REASONS` reasons of a row."""
    more = len(row.reasons) - SHOWN_REASONS
    return "; ".join(row.reasons[:SHOWN_REASONS]) + (f"; and {more} more" if more > 0 else "")


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}..{names[-1]} ({len(names)})"
