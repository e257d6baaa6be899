"""``mobileclip2``: the command line over the same assets that the UI shows."""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mobileclip2.errors import LedgerError, UserError
from pipelines.profiles import profile_path

if TYPE_CHECKING:
    # what asks a Dagster server alone runs where nothing is installed
    from mobileclip2.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 all is well, 1 something that the user can mend, 2 a wrong call, 3 the gate failed."""
    parser = argparse.ArgumentParser(prog="mobileclip2", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, explanation in {
        "check": "check a profile and the inputs it names, and show its graph",
        "plan": "show what would be computed, why, and what it will cost; computes nothing",
        "run": "materialise what is missing, in order, through Dagster",
        "evaluate": "evaluate a student beside a baseline and the published models; fails when it is worse",
        "export": "write a trained student as files that run without this project, checked against what was trained",
        "lineage": "show what a checkpoint was made from, down to shards and weights",
        "gc": "list what the store holds that no profile, commit, run or kept checkpoint needs",
        "ledger": "write the DVC ledger of what is materialised; computes nothing",
        "report": "write the HTML report of what is materialised, or of one student, and print the table of results",
        "latency": "measure how long a student's towers take on this machine",
    }.items():
        command = commands.add_parser(name, help=explanation)
        command.add_argument("--profile", help="built-in name or file; else that of MOBILECLIP2_PROFILE, else demo")
        if name in {"plan", "run"}:
            command.add_argument("assets", nargs="*", help="only these and what they need, such as student/reinforced")
        if name == "plan":
            command.add_argument("--json", action="store_true", help="the same for programs")
            command.add_argument("--verify", action="store_true", help="hash every stored byte, which takes its time")
        if name == "evaluate":
            command.add_argument("--student", required=True, help="whose evaluation to materialise; a teacher's too")
            command.add_argument(
                "--baseline", help="a model of the profile, a file or folder of results, or a git revision"
            )
            command.add_argument("--markdown", type=Path, help="where the printed table goes as well")
            command.add_argument(
                "--dagster", metavar="ADDRESS", help="a Dagster server that evaluates, with its profile"
            )
            command.add_argument("--location", help="the code location there, where several have the job 'evaluate'")
            command.add_argument("--wait", type=minutes, metavar="MINUTES", help="for the server's run, by default 60")
        if name == "export":
            command.add_argument("student", help="such as student/reinforced")
            command.add_argument(
                "--format", required=True, choices=("onnx", "torchscript", "openclip", "safetensors", "coreml")
            )
            command.add_argument("--to", type=Path, required=True, help="the new folder")
            command.add_argument("--int8", action="store_true", help="quantised; onnx only")
        if name == "lineage":
            command.add_argument(
                "of", help="an asset such as student/reinforced, or a lineage.json beside a checkpoint"
            )
        if name == "gc":
            command.add_argument("others", nargs="*", help="other profiles that share the store, names or files")
            command.add_argument("--delete", action="store_true", help="delete what is listed")
            command.add_argument(
                "--keep",
                type=Path,
                nargs="*",
                default=[],
                help="folders of checkpoints to keep, with all they come from",
            )
        if name == "report":
            command.add_argument("student", nargs="?", help="the report of this one alone")
        if name in {"run", "report"}:
            command.add_argument("--report", type=Path, help="where the report goes; by default report[-STUDENT].html")
        if name == "latency":
            command.add_argument("student")
            command.add_argument("--json", action="store_true", help="the same for programs")
    chosen = parser.parse_args(arguments)
    if chosen.command == "evaluate":
        if chosen.dagster and chosen.profile:
            parser.error("--profile is the server's where --dagster is given")
        if not chosen.dagster and (chosen.location or chosen.wait):
            parser.error("--location and --wait need --dagster")
    try:
        return _dispatch(chosen)
    except UserError as error:
        print(f"mobileclip2: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mobileclip2: stopped; finished shards are kept, run again to go on", file=sys.stderr)
        return 130


def _dispatch(chosen: argparse.Namespace) -> int:
    if chosen.command == "evaluate" and chosen.dagster:
        return ask_dagster(chosen)

    from mobileclip2.pipeline import Pipeline
    from mobileclip2.profile import load

    path = profile_path(chosen.profile or os.environ.get("MOBILECLIP2_PROFILE") or "demo")
    os.environ["MOBILECLIP2_PROFILE"] = str(path)
    pipeline = Pipeline(load(path))
    if chosen.command == "check":
        return check(pipeline)
    if chosen.command == "plan":
        return show_plan(pipeline, chosen)
    if chosen.command == "evaluate":
        from pipelines.evaluate import evaluate

        return evaluate(pipeline, chosen.student, chosen.baseline, chosen.markdown)
    if chosen.command == "export":
        from pipelines.export import export_and_show

        width = terminal_width()
        return export_and_show(pipeline, chosen.student, chosen.to, chosen.format, int8=chosen.int8, width=width)
    if chosen.command == "lineage":
        return show_lineage(pipeline, chosen.of)
    if chosen.command == "gc":
        return collect(pipeline, chosen)
    if chosen.command == "run":
        from pipelines.run import run

        run(pipeline, chosen.assets)
        if pipeline.profile.ledger:
            keep_ledger(pipeline, chosen.assets)
        if chosen.assets:
            return 0
    if chosen.command == "ledger":
        return ledger(pipeline)
    if chosen.command == "latency":
        from pipelines.student import latency

        return latency(pipeline, chosen.student, as_json=chosen.json)
    if chosen.command == "report" and chosen.student:
        from pipelines.student import student_report

        return student_report(pipeline, chosen.student, chosen.report or Path(f"report-{chosen.student}.html"))
    return report(pipeline, chosen.report or Path("report.html"))


def minutes(text: str) -> float:
    """A number of minutes, more than none; for argparse."""
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError(text)
    return value


def ask_dagster(chosen: argparse.Namespace) -> int:
    """Evaluates on a Dagster server."""
    from pipelines.graphql import TOKEN, Server
    from pipelines.remote import evaluate_remotely

    server = Server(chosen.dagster, os.environ.get(TOKEN, ""))
    return evaluate_remotely(
        server, chosen.student, chosen.baseline, chosen.location, chosen.wait or 60, chosen.markdown
    )


def show_plan(pipeline: Pipeline, chosen: argparse.Namespace) -> int:
    """Prints the plan as a table, or as JSON."""
    from mobileclip2.plan import plan
    from pipelines.show import plan_as_json, plan_as_table

    gc.disable()  # a million small objects that all live until the end
    planned = plan(pipeline, chosen.assets, every_byte=chosen.verify)
    print(plan_as_json(planned) if chosen.json else plan_as_table(planned, width=terminal_width()), end="")
    return 0


def show_lineage(pipeline: Pipeline, of: str) -> int:
    """Prints the lineage of a finished asset, or of a checkpoint that lies elsewhere."""
    from mobileclip2.lineage import lineage_of, read_lineage
    from pipelines.show import lineage_as_tree

    found = lineage_of(pipeline, of) if of in pipeline.graph else read_lineage(Path(of))
    print(lineage_as_tree(found, width=terminal_width()), end="")
    return 0


def collect(pipeline: Pipeline, chosen: argparse.Namespace) -> int:
    """Lists what nobody needs, and deletes it when told to."""
    from mobileclip2 import garbage
    from mobileclip2.ledger.committed import committed_paths
    from mobileclip2.ledger.stages import checkpoints_folder
    from mobileclip2.pipeline import Pipeline
    from mobileclip2.profile import load
    from pipelines.show import unneeded_as_table

    sharing = [Pipeline(load(profile_path(other))) for other in chosen.others]
    kept = [*chosen.keep, *(checkpoints_folder(each.profile) for each in (pipeline, *sharing) if each.profile.ledger)]
    lineages = [file for folder in kept for file in sorted(folder.rglob("lineage.json"))]
    committed = set().union(*(committed_paths(each.profile) for each in (pipeline, *sharing)))
    outputs = garbage.unneeded([pipeline, *sharing], committed, lineages)
    if chosen.delete:
        garbage.delete(pipeline, outputs)
    print(unneeded_as_table(outputs, width=terminal_width(), deleted=chosen.delete), end="")
    return 0


def terminal_width() -> int:
    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120


def report(pipeline: Pipeline, path: Path) -> int:
    """Writes the HTML report and prints the headline table."""
    from rich.console import Console
    from rich.table import Table

    from mobileclip2.report.gather import gather
    from mobileclip2.report.html import metric_rows, write_html

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


def check(pipeline: Pipeline) -> int:
    """Resolves every outside input and says what the graph holds."""
    from collections import Counter

    shards = pipeline.contents.shards
    for asset in pipeline.graph.values():
        for group in pipeline.groups(asset):
            for part in asset.parts_of(group).values():
                for external in part.externals.values():
                    pipeline.contents.digest(external, group)
    stages = Counter(asset.stage for asset in pipeline.graph.values())
    print(f"{pipeline.profile.name}: {len(shards)} shards in {pipeline.profile.groups} groups")
    for stage, count in stages.items():
        print(f"  {stage:20} {count} asset{'s' if count > 1 else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
