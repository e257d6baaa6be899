"""``mobileclip2``: the command line over the same assets that the UI shows."""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileclip2 import __version__
from mobileclip2.errors import LedgerError, UserError
from pipelines.profiles import profile_path

if TYPE_CHECKING:
    # what asks a Dagster server alone runs where nothing is installed
    from mobileclip2.engine.pipeline import Pipeline


Act = Callable[[argparse.Namespace], int]
"""does what was called for; returns the exit status"""
Argument = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class Command:
    help: str
    arguments: tuple[Argument, ...]
    act: Act


COMMANDS: dict[str, Command] = {}


def argument(*names: str, **options: Any) -> Argument:
    """What argparse's ``add_argument`` is to be called with."""
    return names, options


def command(name: str, help: str, *arguments: Argument) -> Callable[[Act], Act]:
    """Makes a function a command, in the order of this file."""

    def register(act: Act) -> Act:
        COMMANDS[name] = Command(help, arguments, act)
        return act

    return register


ASSETS = argument("assets", nargs="*", help="only these and what they need, such as student/reinforced")
REPORT = argument("--report", type=Path, help="where the report goes; by default report[-STUDENT].html")


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 all is well, 1 something that the user can mend, 2 a wrong call, 3 the gate failed."""
    parser = argparse.ArgumentParser(prog="mobileclip2", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, each in COMMANDS.items():
        added = commands.add_parser(name, help=each.help)
        added.add_argument("--profile", help="built-in name or file; else that of MOBILECLIP2_PROFILE, else demo")
        for names, options in each.arguments:
            added.add_argument(*names, **options)
        added.set_defaults(act=each.act, error=added.error)
    chosen = parser.parse_args(arguments)
    try:
        act: Act = chosen.act
        return act(chosen)
    except UserError as error:
        print(f"mobileclip2: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mobileclip2: stopped; finished shards are kept, run again to go on", file=sys.stderr)
        return 130


def pipeline_of(chosen: argparse.Namespace) -> Pipeline:
    """The pipeline of the profile that was chosen; what is started from here sees the same one."""
    from mobileclip2.config.profile import load
    from mobileclip2.engine.pipeline import Pipeline

    path = profile_path(chosen.profile or os.environ.get("MOBILECLIP2_PROFILE") or "demo")
    os.environ["MOBILECLIP2_PROFILE"] = str(path)
    return Pipeline(load(path))


def terminal_width() -> int:
    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120


def minutes(text: str) -> float:
    """A number of minutes, more than none; for argparse."""
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError(text)
    return value


@command("check", "check a profile and the inputs it names, and show its graph")
def check(chosen: argparse.Namespace) -> int:
    from collections import Counter

    from mobileclip2.engine.source_inventory import Contents

    pipeline = pipeline_of(chosen)
    contents = Contents(pipeline.profile)  # of its own: the store may be away
    for asset in pipeline.graph.values():
        for group in pipeline.groups(asset):
            for part in asset.parts_of(group).values():
                for external in part.externals.values():
                    contents.digest(external, group)
    stages = Counter(asset.stage for asset in pipeline.graph.values())
    print(f"{pipeline.profile.name}: {len(contents.shards)} shards in {pipeline.profile.groups} groups")
    for stage, count in stages.items():
        print(f"  {stage:20} {count} asset{'s' if count > 1 else ''}")
    return 0


@command(
    "plan",
    "show what would be computed, why, and what it will cost; computes nothing",
    ASSETS,
    argument("--json", action="store_true", help="the same for programs"),
    argument("--verify", action="store_true", help="hash every stored byte, which takes its time"),
)
def show_plan(chosen: argparse.Namespace) -> int:
    from mobileclip2.engine.plan import plan
    from pipelines.show import plan_as_json, plan_as_table

    gc.disable()  # a million small objects that all live until the end
    planned = plan(pipeline_of(chosen), chosen.assets, every_byte=chosen.verify)
    print(plan_as_json(planned) if chosen.json else plan_as_table(planned, width=terminal_width()), end="")
    return 0


@command("run", "materialise what is missing, in order, through Dagster", ASSETS, REPORT)
def run_missing(chosen: argparse.Namespace) -> int:
    from pipelines.run import run

    pipeline = pipeline_of(chosen)
    run(pipeline, chosen.assets)
    if pipeline.profile.ledger:
        keep_ledger(pipeline, chosen.assets)
    return 0 if chosen.assets else report(pipeline, chosen.report)


@command(
    "evaluate",
    "evaluate a student beside a baseline and the published models; fails when it is worse",
    argument("--student", required=True, help="whose evaluation to materialise; a teacher's too"),
    argument("--baseline", help="a model of the profile, a file or folder of results, or a git revision"),
    argument("--markdown", type=Path, help="where the printed table goes as well"),
    argument("--dagster", metavar="ADDRESS", help="a Dagster server that evaluates, with its profile"),
    argument("--location", help="the code location there, where several have the job 'evaluate'"),
    argument("--wait", type=minutes, metavar="MINUTES", help="for the server's run, by default 60"),
)
def evaluate_and_judge(chosen: argparse.Namespace) -> int:
    if chosen.dagster:
        if chosen.profile:
            chosen.error("--profile is the server's where --dagster is given")
        return ask_dagster(chosen)
    if chosen.location or chosen.wait:
        chosen.error("--location and --wait need --dagster")

    from pipelines.evaluate import evaluate

    return evaluate(pipeline_of(chosen), chosen.student, chosen.baseline, chosen.markdown)


def ask_dagster(chosen: argparse.Namespace) -> int:
    """Evaluates on a Dagster server."""
    from pipelines.graphql import TOKEN, Server
    from pipelines.remote import evaluate_remotely

    server = Server(chosen.dagster, os.environ.get(TOKEN, ""))
    return evaluate_remotely(
        server, chosen.student, chosen.baseline, chosen.location, chosen.wait or 60, chosen.markdown
    )


@command(
    "export",
    "write a trained student as files that run without this project, checked against what was trained",
    argument("student", help="such as student/reinforced"),
    argument("--format", required=True, choices=("onnx", "torchscript", "openclip", "safetensors", "coreml")),
    argument("--to", type=Path, required=True, help="the new folder"),
    argument("--int8", action="store_true", help="quantised; onnx only"),
)
def export_student(chosen: argparse.Namespace) -> int:
    from pipelines.export import export_and_show

    width = terminal_width()
    return export_and_show(pipeline_of(chosen), chosen.student, chosen.to, chosen.format, int8=chosen.int8, width=width)


@command(
    "latency",
    "measure how long a student's towers take on this machine",
    argument("student", help="such as reinforced"),
    argument("--json", action="store_true", help="the same for programs"),
)
def show_latency(chosen: argparse.Namespace) -> int:
    from pipelines.student import latency

    return latency(pipeline_of(chosen), chosen.student, as_json=chosen.json)


@command(
    "lineage",
    "show what a checkpoint was made from, down to shards and weights",
    argument("of", help="an asset such as student/reinforced, or a lineage.json beside a checkpoint"),
)
def show_lineage(chosen: argparse.Namespace) -> int:
    from mobileclip2.engine.lineage import read_lineage
    from mobileclip2.engine.trace import lineage_of
    from pipelines.show import lineage_as_tree

    pipeline, of = pipeline_of(chosen), chosen.of
    found = lineage_of(pipeline, of) if of in pipeline.graph else read_lineage(Path(of))
    print(lineage_as_tree(found, width=terminal_width()), end="")
    return 0


@command(
    "gc",
    "list what the store holds that no profile, commit, run or kept checkpoint needs",
    argument("others", nargs="*", help="other profiles that share the store, names or files"),
    argument("--delete", action="store_true", help="delete what is listed"),
    argument(
        "--keep",
        type=Path,
        action="append",
        default=[],
        help="a folder of checkpoints to keep, with all they come from; may be given again",
    ),
)
def collect(chosen: argparse.Namespace) -> int:
    from mobileclip2.config.profile import load
    from mobileclip2.engine import gc as garbage
    from mobileclip2.engine.pipeline import Pipeline
    from mobileclip2.ledger.committed import committed_paths
    from mobileclip2.ledger.stages import checkpoints_folder
    from pipelines.show import unneeded_as_table

    pipeline = pipeline_of(chosen)
    sharing = [Pipeline(load(profile_path(other))) for other in chosen.others]
    lineages = [file for folder in chosen.keep for file in garbage.lineages_in(folder)]
    for each in (pipeline, *sharing):
        if each.profile.ledger:
            lineages += checkpoints_folder(each.profile).rglob("lineage.json")
    committed = set().union(*(committed_paths(each.profile) for each in (pipeline, *sharing)))
    outputs = garbage.unneeded([pipeline, *sharing], committed, lineages)
    if chosen.delete:
        garbage.delete(pipeline, outputs)
    print(unneeded_as_table(outputs, width=terminal_width(), deleted=chosen.delete), end="")
    return 0


@command("ledger", "write the DVC ledger of what is materialised; computes nothing")
def write_ledger(chosen: argparse.Namespace) -> int:
    return ledger(pipeline_of(chosen))


@command(
    "report",
    "write the HTML report of what is materialised, or of one student, and print the table of results",
    argument("student", nargs="?", help="the report of this one alone"),
    REPORT,
)
def write_report(chosen: argparse.Namespace) -> int:
    pipeline = pipeline_of(chosen)
    if not chosen.student:
        return report(pipeline, chosen.report)

    from pipelines.student import student_report

    return student_report(pipeline, chosen.student, chosen.report or Path(f"report-{chosen.student}.html"))


def report(pipeline: Pipeline, path: Path | None) -> int:
    """Writes the HTML report and prints the headline table."""
    from rich.console import Console
    from rich.table import Table

    from mobileclip2.report.gather import gather
    from mobileclip2.report.html import metric_rows, write_html

    path = path or Path("report.html")
    gathered = gather(pipeline)
    write_html(gathered, path)
    table = Table(title=gathered.title)
    table.add_column("set")
    table.add_column("metric")
    for model in gathered.models:
        table.add_column(model.name, justify="right")
    for row in metric_rows(gathered.models):
        shares = ["" if value is None else f"{value:.1%}" for value in row.values]
        table.add_row(row.set if row.first else "", row.metric, *shares, end_section=False)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for highlight in gathered.highlights:
        console.print(f"{highlight.label}: {highlight.value} ({highlight.note})", markup=False)
    console.print(f"report: {path}", markup=False)
    return 0


def ledger(pipeline: Pipeline) -> int:
    """Writes the DVC ledger of what is materialised."""
    from mobileclip2.ledger.record import record

    recorded = record(pipeline)
    print(f"ledger: {len(recorded.current)} of {len(pipeline.graph)} stages recorded", end="")
    print(f"; to be computed: {', '.join(recorded.missing)}" if recorded.missing else "")
    return 0


def keep_ledger(pipeline: Pipeline, assets: list[str]) -> None:
    """The ledger after a run; where it cannot be written the run is no failure for that."""
    from mobileclip2.ledger.dvc import called_by_dvc
    from mobileclip2.ledger.record import write_files

    if called_by_dvc():
        write_files(pipeline, assets)
        return
    try:
        ledger(pipeline)
    except LedgerError as error:
        print(f"mobileclip2: ledger not written: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
