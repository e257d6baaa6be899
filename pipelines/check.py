"""``mobileclip2 check``: open one sample of each input, build each model without memory, and print what a run needs."""

from __future__ import annotations

from collections import Counter

from mobileclip2.api.check import Checked, check
from mobileclip2.api.estimate import Estimate, estimate
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from pipelines.tables import FLOPS, NOT_KNOWN, amount, duration, new_table, show


def check_profile(pipeline: Pipeline) -> None:
    """Print what was found.

    Raises:
        UserError: there are problems. The message lists all of them.
    """
    checked = check(pipeline)
    _print_graph(pipeline, checked)
    _print_data(checked)
    _print_models(checked)
    _print_estimates(estimate(pipeline, checked))
    for field, found in checked.commits.items():
        for repository, commit in found.items():
            show(f"  {field}: {repository} at revision {commit}")
    problems = checked.problems
    if len(problems) > 1:
        lines = "".join(f"\n  {number}. {problem}" for number, problem in enumerate(problems, 1))
        raise UserError(f"{pipeline.profile.name}: {len(problems)} problems; nothing was run{lines}")
    if problems:
        raise UserError(problems[0])


def _print_graph(pipeline: Pipeline, checked: Checked) -> None:
    shards = sum(source.shards for source in checked.sources)
    shards += sum(published.shards for published in checked.reinforced.values())
    show(f"{pipeline.profile.name}: {shards:,} shards in {pipeline.profile.groups} groups")
    for stage, count in Counter(asset.stage for asset in pipeline.graph.values()).items():
        show(f"  {stage:20} {count} asset{'s' if count > 1 else ''}")


def _print_data(checked: Checked) -> None:
    table = new_table("input", "samples", "first sample", right=("samples",))
    for shards in [*checked.sources, *checked.corpora.values(), *checked.reinforced.values()]:
        table.add_row(shards.field, f"about {shards.samples:,}", shards.shown)
    for each in checked.sets.values():
        shown = f"{each.kind}, {f'{each.classes:,} classes, ' if each.classes else ''}{each.shown[:40]!r}"
        table.add_row(each.field, f"about {each.samples:,}", shown)
    if table.row_count:
        show(table)
    for field, names in checked.unread.items():
        if names:
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            show(
                f"  {field}: not read: {', '.join(names[:3])}{more}; make plain tars of them, named '.tar', to use them"
            )


def _print_models(checked: Checked) -> None:
    numbers = ("parameters", "pixels", "tokens", "dim", "operations")
    table = new_table("model", "architecture", *numbers, right=numbers)
    for asset, model in checked.models.items():
        table.add_row(
            asset,
            model.architecture,
            f"{model.image_parameters / 1e6:.1f} + {model.text_parameters / 1e6:.1f} M",
            str(model.size),
            str(model.context),
            str(model.embed_dim),
            f"{amount(model.image_flops, FLOPS)} + {amount(model.text_flops, FLOPS)}",
        )
    if table.row_count:
        show(table)


def _print_estimates(estimates: list[Estimate]) -> None:
    numbers = ("samples", "compute", "time", "memory", "disk")
    table = new_table("estimate", *numbers, right=numbers)
    for each in estimates:
        compute, time = amount(each.flops, FLOPS), duration(each.seconds)
        table.add_row(each.asset, f"{each.samples:,}", compute, time, amount(each.memory), amount(each.disk))
    table.add_section()
    seconds = [each.seconds for each in estimates]
    total = sum(each or 0 for each in seconds)
    table.add_row(
        "all",
        "",
        amount(sum(each.flops or 0 for each in estimates), FLOPS),
        duration(total) + ("+" if None in seconds else "") if total else NOT_KNOWN,
        amount(max((each.memory or 0 for each in estimates), default=0)),
        amount(sum(each.disk or 0 for each in estimates)),
    )
    show(table)
    show(
        "  Samples are those of each first shard, times the number of shards. Memory is weights, gradients, moments and "
        "activations of one training process, or the weights. Disk is before compression."
    )
    if unknown := dict.fromkeys(each.asset.stage for each in estimates if each.seconds is None):
        show(
            f"  The time of {', '.join(unknown)} is not known. It is measured when one group has run on this store "
            f"(mobileclip2 run {next(iter(unknown))}), or stated in the profile in samples a second: "
            f"rates: {{{next(iter(unknown))}: ...}}. Divide 'compute' by the speed of the device for a lower bound."
        )
