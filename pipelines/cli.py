"""The command line over the same assets that the UI shows."""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileclip2 import __version__
from mobileclip2.errors import LedgerError, UserError
from mobileclip2.names import did_you_mean, find, listed
from mobileclip2.progress import doing
from pipelines.profiles import built_in, profile_path

if TYPE_CHECKING:
    # what asks a Dagster server alone runs where nothing is installed
    from mobileclip2.engine.pipeline import Pipeline


Act = Callable[[argparse.Namespace], int]
"""does what was called for; returns the exit status"""


@dataclass(frozen=True)
class Argument:
    names: tuple[str, ...]
    options: dict[str, Any]
    """of argparse's ``add_argument``"""
    assets: str | None = None
    """completed to the assets whose keys begin with this"""


@dataclass(frozen=True)
class Command:
    help: str
    arguments: tuple[Argument, ...]
    act: Act
    examples: str


COMMANDS: dict[str, Command] = {}


def argument(*names: str, assets: str | None = None, **options: Any) -> Argument:
    return Argument(names, options, assets)


def command(name: str, help: str, *arguments: Argument, examples: tuple[str, ...] = ()) -> Callable[[Act], Act]:
    """Make a function a command, in the order of this file."""

    def register(act: Act) -> Act:
        COMMANDS[name] = Command(help, arguments, act, _examples(*examples))
        return act

    return register


def _examples(*examples: str) -> str:
    return "\n".join(["examples:", *(f"  mobileclip2 {example}" for example in examples)]) if examples else ""


ASSETS = argument(
    "assets",
    nargs="*",
    assets="",
    help="only these and what they need, such as student/reinforced, or its last part where that is unique",
)
REPORT = argument("--report", type=Path, help="where the report goes; by default report[-STUDENT].html")
STUDENT = {"assets": "student/", "help": "such as student/reinforced or reinforced"}


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Called with arguments it does so in this process; as the program, in a supervised child.

    Returns:
        0 all is well, 1 something that the user can mend, 2 a wrong call, 3 the gate failed, and 128 with the number of the
        signal that ended it.
    """
    parser = make_parser()
    words = sys.argv[1:] if arguments is None else arguments
    name = next((word for word in words if not word.startswith("-")), None)
    if name and name not in COMMANDS:  # argparse would list all
        near = did_you_mean(name, COMMANDS)
        parser.error(f"there is no command '{name}'{near or f'; there are {listed(COMMANDS)}'}")
    chosen = parser.parse_args(words)
    if arguments is not None:
        return act(chosen)
    if getattr(chosen, "dagster", None) or chosen.command == "completion":
        # needs nothing but Python, and computes nothing here
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return act(chosen)

    from pipelines.supervise import supervise

    return supervise(chosen.command, lambda: act(chosen))


def act(chosen: argparse.Namespace) -> int:
    """Do what was called for. Errors that the user can mend are printed without a traceback."""
    try:
        status: int = chosen.act(chosen)
        return status
    except UserError as error:
        print(f"mobileclip2: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mobileclip2: stopped; finished shards are kept, run again to go on", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="mobileclip2",
        description=__doc__,
        formatter_class=plain,
        epilog=_examples(
            "run                                  # the demo: everything, ends with a table and report.html",
            "plan --profile my.yaml               # what would be computed, why, and what it will cost",
            "run --profile my.yaml reinforced     # one student and all it needs",
            "COMMAND --help                       # examples of a command",
        ),
    )
    parser.add_argument("--version", action="version", version=f"mobileclip2 {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, each in COMMANDS.items():
        added = commands.add_parser(
            name, help=each.help, description=each.help, epilog=each.examples, formatter_class=plain
        )
        profile = added.add_argument(
            "--profile",
            help=f"file, or built in: {', '.join(built_in())}; else that of MOBILECLIP2_PROFILE, else demo",
        )
        profile.completer = complete_profiles  # type: ignore[attr-defined]
        for each_argument in each.arguments:
            action = added.add_argument(*each_argument.names, **each_argument.options)
            if each_argument.assets is not None:
                action.completer = Completer(each_argument.assets)  # type: ignore[attr-defined]
        added.set_defaults(act=each.act, error=added.error)
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    return parser


def complete_profiles(prefix: str, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return [*built_in(), *FilesCompleter(["yaml", "yml"])(prefix)]


@dataclass(frozen=True)
class Completer:
    """Completes assets of the profile that the line names."""

    begins: str

    def __call__(self, prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        try:
            keys = pipeline_of(parsed_args).graph
        except UserError:
            return []
        return [key for key in keys if key.startswith(self.begins)]


def pipeline_of(chosen: argparse.Namespace) -> Pipeline:
    """The pipeline of the profile that was chosen; what is started from here sees the same one."""
    with doing("reading the profile"):
        from mobileclip2.config.profile import load
        from mobileclip2.engine.pipeline import Pipeline

        path = profile_path(chosen.profile or os.environ.get("MOBILECLIP2_PROFILE") or "demo")
        os.environ["MOBILECLIP2_PROFILE"] = str(path)
        return Pipeline(load(path))


def student_of(pipeline: Pipeline, name: str) -> str:
    """The key of a student."""
    return find(name, [key for key in pipeline.graph if key.startswith("student/")], "student")


def terminal_width() -> int:
    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120


def minutes(text: str) -> float:
    """A number of minutes, more than none; for argparse."""
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError(text)
    return value


@command("check", "check a profile and the inputs it names, and show its graph", examples=("check --profile my.yaml",))
def check(chosen: argparse.Namespace) -> int:
    from collections import Counter

    from mobileclip2.engine.source_inventory import SourceInventory

    pipeline = pipeline_of(chosen)
    contents = SourceInventory(pipeline.profile)  # of its own: the store may be away
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
    argument("--json", action="store_true", help="print JSON"),
    argument("--verify", action="store_true", help="hash every stored byte, which takes its time"),
    examples=("plan", "plan student/reinforced", "plan --json --profile my.yaml"),
)
def show_plan(chosen: argparse.Namespace) -> int:
    from mobileclip2.engine.plan import plan
    from pipelines.show import plan_as_json, plan_as_table

    gc.disable()  # a million small objects that all live until the end
    pipeline = pipeline_of(chosen)
    with doing("planning"):
        planned = plan(pipeline, chosen.assets, every_byte=chosen.verify)
    print(plan_as_json(planned) if chosen.json else plan_as_table(planned, width=terminal_width()), end="")
    return 0


@command(
    "run",
    "compute what is missing, in order, through Dagster",
    ASSETS,
    REPORT,
    examples=("run", "run student/reinforced", "run --profile my.yaml evaluation/reinforced"),
)
def run_missing(chosen: argparse.Namespace) -> int:
    pipeline = pipeline_of(chosen)
    with doing("importing"):
        from pipelines.run import run

    run(pipeline, chosen.assets)
    kept = keep_ledger(pipeline, chosen.assets) if pipeline.profile.ledger else ""
    if not chosen.assets:
        report(pipeline, chosen.report)
    print(kept, end="")
    return 0


@command(
    "evaluate",
    "evaluate a student beside a baseline and the published models; fails when it is worse",
    argument("--student", required=True, assets="student/", help="student or teacher to evaluate"),
    argument("--baseline", help="a model of the profile, a file or folder of results, or a git revision"),
    argument("--markdown", type=Path, help="where the printed table goes as well"),
    argument("--dagster", metavar="ADDRESS", help="a Dagster server that evaluates, with its profile"),
    argument("--location", help="the code location there, where several have the job 'evaluate'"),
    argument("--wait", type=minutes, metavar="MINUTES", help="for the server's run, by default 60"),
    examples=(
        "evaluate --student reinforced --baseline plain",
        "evaluate --student reinforced --baseline origin/main --markdown comparison.md",
    ),
)
def evaluate_and_judge(chosen: argparse.Namespace) -> int:
    if chosen.dagster:
        if chosen.profile:
            chosen.error("--profile is the server's where --dagster is given")
        return ask_dagster(chosen)
    if chosen.location or chosen.wait:
        chosen.error("--location and --wait need --dagster")

    with doing("importing"):
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
    argument("student", **STUDENT),
    argument("--format", required=True, choices=("onnx", "torchscript", "openclip", "safetensors", "coreml")),
    argument("--to", type=Path, required=True, help="the new folder"),
    argument("--int8", action="store_true", help="quantized; onnx only"),
    examples=("export reinforced --format onnx --to reinforced-onnx",),
)
def export_student(chosen: argparse.Namespace) -> int:
    pipeline = pipeline_of(chosen)
    student = student_of(pipeline, chosen.student)
    with doing("importing"):
        from pipelines.export import export_and_show

    width = terminal_width()
    return export_and_show(pipeline, student, chosen.to, chosen.format, int8=chosen.int8, width=width)


@command(
    "latency",
    "measure how long a student's towers take on this machine",
    argument("student", **STUDENT),
    argument("--json", action="store_true", help="print JSON"),
    examples=("latency reinforced",),
)
def show_latency(chosen: argparse.Namespace) -> int:
    pipeline = pipeline_of(chosen)
    student = student_of(pipeline, chosen.student)
    with doing("importing"):
        from pipelines.student import latency

    return latency(pipeline, student.removeprefix("student/"), as_json=chosen.json)


@command(
    "lineage",
    "show what a checkpoint was made from, down to shards and weights",
    argument("of", assets="", help="an asset such as student/reinforced, or a lineage.json beside a checkpoint"),
    examples=("lineage student/reinforced", "lineage some/folder/lineage.json"),
)
def show_lineage(chosen: argparse.Namespace) -> int:
    from mobileclip2.engine.lineage import read_lineage
    from mobileclip2.engine.trace import lineage_of
    from pipelines.show import lineage_as_tree

    pipeline, of = pipeline_of(chosen), chosen.of
    if of not in pipeline.graph and (of.endswith(".json") or Path(of).exists()):
        found = read_lineage(Path(of))
    else:
        found = lineage_of(pipeline, find(of, pipeline.graph, "asset"))
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
    examples=("gc", "gc other.yaml --keep checkpoints --delete"),
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


@command("ledger", "write the DVC ledger of what is materialized; computes nothing")
def write_ledger(chosen: argparse.Namespace) -> int:
    print(ledger(pipeline_of(chosen)), end="")
    return 0


@command(
    "report",
    "write the HTML report of what is materialized, or of one student, and print the table of results",
    argument("student", nargs="?", assets="student/", help="the report of this one alone"),
    REPORT,
    examples=("report", "report reinforced --report reinforced.html"),
)
def write_report(chosen: argparse.Namespace) -> int:
    pipeline = pipeline_of(chosen)
    if not chosen.student:
        return report(pipeline, chosen.report)

    student = student_of(pipeline, chosen.student).removeprefix("student/")
    with doing("importing"):
        from pipelines.student import student_report

    return student_report(pipeline, student, chosen.report or Path(f"report-{student}.html"))


SHELLS = ("bash", "zsh", "fish")


@command(
    "completion",
    "print the shell code that completes commands, profiles and assets",
    argument("shell", choices=SHELLS),
    examples=(
        "completion bash >> ~/.bash_completion",
        "completion zsh >> ~/.zshrc",
        "completion fish > ~/.config/fish/completions/mobileclip2.fish",
    ),
)
def print_completion(chosen: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["mobileclip2"], shell=chosen.shell))
    return 0


def report(pipeline: Pipeline, path: Path | None) -> int:
    """Writes the HTML report and prints the headline table."""
    with doing("importing"):
        from rich.console import Console
        from rich.table import Table

        from mobileclip2.report.gather import gather
        from mobileclip2.report.html import metric_rows, write_html

    path = path or Path("report.html")
    with doing("writing the report"):
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


def ledger(pipeline: Pipeline) -> str:
    """Write the DVC ledger of what is materialized, and return a line about it."""
    with doing("writing the ledger"):
        from mobileclip2.ledger.record import record

        recorded = record(pipeline)
    total = len(pipeline.graph)
    if not recorded.missing:
        return f"ledger: all {total} assets are recorded\n"
    return f"ledger: {len(recorded.current)} of {total} assets are recorded; not computed yet: {', '.join(recorded.missing)}\n"


def keep_ledger(pipeline: Pipeline, assets: list[str]) -> str:
    """Write the ledger after a run, and return a line about it. A run does not fail if there can be none."""
    from mobileclip2.ledger.dvc import called_by_dvc
    from mobileclip2.ledger.record import write_files

    if called_by_dvc():
        write_files(pipeline, assets)
        return ""
    try:
        return ledger(pipeline)
    except LedgerError as error:
        return f"note: the run is complete; ledger not written: {error}\n"


if __name__ == "__main__":
    sys.exit(main())
