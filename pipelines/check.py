"""``mobileclip2 check``: open one sample of each input, build each model without memory, and print what a run needs."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from mobileclip2.api.check import Checked, check
from mobileclip2.api.estimate import Estimate, estimate
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError

NOT_KNOWN = "–"
FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP")
BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def check_profile(pipeline: Pipeline, width: int) -> None:
    """Print what was found.

    Raises:
        UserError: there are problems. The message lists all of them.
    """
    checked = check(pipeline)
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    _print_graph(console, pipeline, checked)
    _print_data(console, checked)
    _print_models(console, checked)
    _print_estimates(console, estimate(pipeline, checked))
    for field, found in checked.commits.items():
        for repository, commit in found.items():
            console.print(f"  {field}: {repository} at revision {commit}")
    problems = checked.problems
    if len(problems) > 1:
        lines = "".join(f"\n  {number}. {problem}" for number, problem in enumerate(problems, 1))
        raise UserError(f"{pipeline.profile.name}: {len(problems)} problems; nothing was run{lines}")
    if problems:
        raise UserError(problems[0])


def _print_graph(console: Console, pipeline: Pipeline, checked: Checked) -> None:
    shards = sum(source.shards for source in checked.sources)
    shards += sum(published.shards for published in checked.reinforced.values())
    console.print(f"{pipeline.profile.name}: {shards:,} shards in {pipeline.profile.groups} groups")
    for stage, count in Counter(asset.stage for asset in pipeline.graph.values()).items():
        console.print(f"  {stage:20} {count} asset{'s' if count > 1 else ''}")


def _print_data(console: Console, checked: Checked) -> None:
    table = _table("input", "samples", "first sample", right=("samples",))
    for shards in [*checked.sources, *checked.corpora.values(), *checked.reinforced.values()]:
        table.add_row(shards.field, f"about {shards.samples:,}", shards.shown)
    for each in checked.sets.values():
        shown = f"{each.kind}, {f'{each.classes:,} classes, ' if each.classes else ''}{each.shown[:40]!r}"
        table.add_row(each.field, f"about {each.samples:,}", shown)
    if table.row_count:
        console.print(table)
    for field, names in checked.unread.items():
        if names:
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            console.print(
                f"  {field}: not read: {', '.join(names[:3])}{more}; make plain tars of them, named '.tar', to use them"
            )


def _print_models(console: Console, checked: Checked) -> None:
    numbers = ("parameters", "pixels", "tokens", "dim", "GFLOP")
    table = _table("model", "architecture", *numbers, right=numbers)
    for asset, model in checked.models.items():
        table.add_row(
            asset,
            model.architecture,
            f"{model.image_parameters / 1e6:.1f} + {model.text_parameters / 1e6:.1f} M",
            str(model.size),
            str(model.context),
            str(model.embed_dim),
            f"{model.image_flops / 1e9:.2g} + {model.text_flops / 1e9:.2g}",
        )
    if table.row_count:
        console.print(table)


def _print_estimates(console: Console, estimates: list[Estimate]) -> None:
    numbers = ("samples", "compute", "time", "memory", "disk")
    table = _table("estimate", *numbers, right=numbers)
    for each in estimates:
        table.add_row(
            each.asset,
            f"{each.samples:,}",
            NOT_KNOWN if each.flops is None else _scaled(each.flops, 1000, FLOPS),
            NOT_KNOWN if each.seconds is None else _time(each.seconds),
            NOT_KNOWN if each.memory is None else _bytes(each.memory),
            NOT_KNOWN if each.disk is None else _bytes(each.disk),
        )
    table.add_section()
    seconds = [each.seconds for each in estimates]
    total = sum(each or 0 for each in seconds)
    table.add_row(
        "all",
        "",
        _scaled(sum(each.flops or 0 for each in estimates), 1000, FLOPS),
        _time(total) + ("+" if None in seconds else "") if total else NOT_KNOWN,
        _bytes(max((each.memory or 0 for each in estimates), default=0)),
        _bytes(sum(each.disk or 0 for each in estimates)),
    )
    console.print(table)
    console.print(
        "  Samples are those of each first shard, times the number of shards. Memory is weights, gradients, moments and "
        "activations of one training process, or the weights. Disk is before compression."
    )
    if unknown := dict.fromkeys(each.asset.stage for each in estimates if each.seconds is None):
        console.print(
            f"  The time of {', '.join(unknown)} is not known. It is measured when one group has run on this store "
            f"(mobileclip2 run {next(iter(unknown))}), or stated in the profile in samples a second: "
            f"rates: {{{next(iter(unknown))}: ...}}. Divide 'compute' by the speed of the device for a lower bound."
        )


def _table(*columns: str, right: tuple[str, ...]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _bytes(count: float) -> str:
    return _scaled(count, 1024, BYTES)


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if value < step:
            return f"{value:.3g} {unit}"
        value /= step
    return f"{value:.3g} {units[-1]}"


def _time(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:,.0f} days"
