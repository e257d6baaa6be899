"""Train, evaluate and export MobileCLIP2-style models: the command line for the same assets that the UI shows."""

from __future__ import annotations

import argparse
import gc
import io
import os
import select
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mobileclip2 import __version__
from mobileclip2.asset_key import AssetKey
from mobileclip2.errors import LedgerError, UserError, without_secrets
from mobileclip2.names import did_you_mean, find, is_url, listed
from mobileclip2.progress import doing
from pipelines.profiles import built_in, default_profile, profile_path

if TYPE_CHECKING:
    # `evaluate --dagster` runs where only Python is installed
    from mobileclip2.engine.pipeline import Pipeline
    from pipelines.graphql import Server
    from pipelines.supervise import RunDisplay


Action = Callable[[argparse.Namespace], int | None]
"""runs a command and returns its exit status, or None for 0"""

Argument = Callable[[argparse.ArgumentParser], None]
"""adds an argument to the parser of a command"""


COMMANDS: dict[str, tuple[Action, tuple[Argument, ...], str]] = {}
"""for each command, its action, its arguments and its examples"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors do not repeat the password of a URL."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, and exit."""
        super().error(without_secrets(message))


def argument(*names: str, complete: Callable[..., list[str]] | None = None, **options: Any) -> Argument:
    """Declare an argument of a command. ``complete`` returns the words that complete it."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(*names, **options).completer = complete  # type: ignore[attr-defined]

    return add


def local_path(given: str) -> Path:
    """Return the path of an argument. A URL is not repeated, because it can contain a password."""
    if is_url(given):
        raise argparse.ArgumentTypeError("this is a URL; give the path of a local file or folder")
    return Path(given)


def local_file(given: str) -> Path:
    """Return the path of an argument that names a file to write."""
    path = local_path(given)
    try:
        is_folder = path.is_dir()  # found before a run of hours, not after it
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{error.strerror}; correct the path") from None
    if is_folder:
        raise argparse.ArgumentTypeError("this is a folder; give the path of a file")
    return path


def command(name: str, *arguments: Argument, examples: tuple[str, ...] = ()) -> Callable[[Action], Action]:
    """Register a function as a command, whose help is the first line of its docstring.

    The help of the program lists commands in the order of this file.
    """

    def register(action: Action) -> Action:
        COMMANDS[name] = action, arguments, _examples(*examples)
        return action

    return register


def _examples(*examples: str) -> str:
    return "\n".join(["examples:", *(f"  mobileclip2 {example}" for example in examples)]) if examples else ""


def complete_profiles(prefix: str, **_: Any) -> list[str]:
    """Complete built-in profiles and YAML files."""
    from argcomplete.completers import FilesCompleter

    return [*built_in(), *FilesCompleter(["yaml", "yml"])(prefix)]


def complete_assets(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Complete assets of the profile. There are none if the profile has an error."""
    try:
        return [key for key in pipeline_of(parsed_args).graph if key.startswith(prefix)]
    except UserError:
        return []


def complete_students(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Complete students of the profile."""
    return [key for key in complete_assets(prefix, parsed_args) if AssetKey(key).stage == "student"]


PROFILE = argument(
    "--profile",
    complete=complete_profiles,
    help=f"file, or built in: {', '.join(built_in())}; by default MOBILECLIP2_PROFILE, mobileclip2.yaml or demo",
)
ASSETS = argument(
    "assets",
    nargs="*",
    complete=complete_assets,
    help="only these and their upstream assets, such as student/reinforced, or its last part if it is unique",
)
REPORT = argument("--report", type=local_file, help="path of the report; by default report[-STUDENT].html")
STUDENT = argument("student", complete=complete_students, help="such as student/reinforced or reinforced")


def main(arguments: list[str] | None = None) -> int:
    """Run a command: in this process if ``arguments`` are given, else in a supervised child process.

    Returns:
        0: success. 1: an error that the user can fix. 2: a usage error. 3: the gate failed. 128 + n: signal n ended the
        command.
    """
    parser = make_parser()
    words = sys.argv[1:] if arguments is None else arguments
    if any("\0" in word for word in words):
        parser.error("an argument contains a NUL character; remove it")
    name = next((word for word in words if not word.startswith("-")), None)
    if name and name not in COMMANDS:  # the message of argparse lists all commands without a suggestion
        near = did_you_mean(name, COMMANDS)
        parser.error(f"there is no command '{name}'{near or f'; there are {listed(COMMANDS)}'}")
    chosen = parser.parse_args(words)
    if arguments is not None:
        return run_action(chosen)
    on_server = chosen.command in {"run", "evaluate"} and (chosen.dagster or chosen.location or chosen.wait)
    if on_server or chosen.command == "completion":
        # these need only Python, and compute nothing here
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return run_action(chosen)

    from pipelines.supervise import supervise

    return supervise(chosen.command, lambda display: run_action(chosen, display))


def run_action(chosen: argparse.Namespace, display: RunDisplay | None = None) -> int:
    """Run the chosen command. Print a user error without a traceback."""
    chosen.display = display
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the name of a file can have bytes that are not UTF-8
    try:
        status = _act(chosen)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"mobileclip2: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not _reader_has_ended():
            raise
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("mobileclip2: stopped; finished shards are kept, run again to continue", file=sys.stderr)
        return 130


def _reader_has_ended() -> bool:
    """Return whether the program that reads the output has ended, as ``head`` does. Drop the rest of the output then."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
    return True


def _act(chosen: argparse.Namespace) -> int:
    """Run the action of a command.

    Raises:
        StoreError: a path that was given cannot be used.
    """
    try:
        status: int | None = chosen.action(chosen)
        return status or 0
    except (OSError, RuntimeError) as error:
        from mobileclip2.store.storage import explain

        # Path.resolve raises a RuntimeError for a loop of links
        problem = error if isinstance(error, OSError) else error.__context__
        if not isinstance(problem, OSError):
            raise
        explain(problem, str(problem.filename or chosen.command))


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="mobileclip2",
        description=__doc__,
        formatter_class=plain,
        epilog=_examples(
            "run                                  # the demo: computes everything, writes report.html",
            "plan --profile my.yaml               # what would be computed, why, and its cost",
            "run --profile my.yaml reinforced     # one student and its upstream assets",
            "COMMAND --help                       # examples of a command",
        ),
    )
    parser.add_argument("--version", action="version", version=f"mobileclip2 {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (action, arguments, examples) in COMMANDS.items():
        summary = (action.__doc__ or "").partition("\n")[0].removesuffix(".")
        help = summary[:1].lower() + summary[1:]
        added = commands.add_parser(name, help=help, description=help, epilog=examples, formatter_class=plain)
        for add in (PROFILE, *arguments):
            add(added)
        added.set_defaults(action=action, error=added.error)
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    return parser


def pipeline_of(chosen: argparse.Namespace) -> Pipeline:
    """Load the pipeline of the chosen profile."""
    with doing("reading the profile"):
        from mobileclip2.config.profile import load
        from mobileclip2.engine.pipeline import Pipeline

        return Pipeline(load(profile_path(chosen.profile or default_profile())))


def student_of(chosen: argparse.Namespace) -> tuple[Pipeline, AssetKey]:
    """Load the pipeline of the chosen profile, and return it with the key of the chosen student."""
    pipeline = pipeline_of(chosen)
    keys = [asset.key for asset in pipeline.graph.values() if asset.stage == "student"]
    return pipeline, pipeline.graph[find(chosen.student, keys, "student")].key


def terminal_width() -> int:
    """Return the number of columns for tables."""
    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120


def delimiter(text: str) -> str:
    """Parse a delimiter for argparse."""
    character = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(character) != 1:
        raise ValueError(text)
    return character


def minutes(text: str) -> float:
    """Parse a positive, finite number of minutes for argparse."""
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError(text)
    return value


def positive(text: str) -> int:
    """Parse a positive integer for argparse."""
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


DAGSTER = (
    argument("--dagster", metavar="ADDRESS", help="use this Dagster server, with the server's profile"),
    argument("--location", help="code location on the server; needed if several have the job"),
    argument("--wait", type=minutes, metavar="MINUTES", help="time to wait for the server, by default 60"),
)


@command(
    "import",
    argument(
        "path", type=local_path, help="folder of pictures, table (csv, tsv, jsonl, parquet), or Hugging Face data set"
    ),
    argument("-o", "--output", type=local_path, required=True, help="the new folder"),
    argument(
        "--captions", type=local_path, metavar="TABLE", help="table of the captions or classes of the folder's pictures"
    ),
    argument(
        "--as-evaluation", action="store_true", help="write a zero-shot set (classes) or a retrieval set (captions)"
    ),
    argument("--image-column", metavar="NAME", help="column of the pictures; by default, guessed from its name"),
    argument(
        "--caption-column", metavar="NAME", action="append", default=[], help="column of captions; can be repeated"
    ),
    argument("--label-column", metavar="NAME", help="column of the classes"),
    argument(
        "--template",
        action="append",
        default=[],
        help="caption of a class, such as 'a photo of a {c}'; can be repeated",
    ),
    argument("--delimiter", type=delimiter, help="delimiter of a text table, such as ; or tab; by default, detected"),
    argument("--encoding", help="encoding of a text table; by default, detected"),
    argument("--split", help="split of a Hugging Face data set"),
    examples=(
        "import photos/ --captions captions.csv -o shards/",
        "import pairs.parquet -o shards/",
        "import classes/ --as-evaluation -o evaluation/mine/",
    ),
)
def import_data(chosen: argparse.Namespace) -> None:
    """Write a folder, a table or a data set of pictures as shards, or as an evaluation set."""
    with doing("importing modules"):
        from mobileclip2.data.importing.open_rows import open_rows
        from mobileclip2.data.importing.tables import Columns
        from pipelines.import_pictures import import_pictures

    columns = Columns(chosen.image_column, tuple(chosen.caption_column), chosen.label_column)
    try:
        rows = open_rows(
            chosen.path,
            chosen.captions,
            columns,
            encoding=chosen.encoding,
            delimiter=chosen.delimiter,
            split=chosen.split,
        )
        import_pictures(rows, chosen.output, chosen.template, as_evaluation=chosen.as_evaluation)
    except OSError as error:
        raise UserError(
            f"{error.filename or chosen.output}: {error.strerror or error}; correct it and run again"
        ) from error


@command(
    "init",
    argument("--images", type=local_path, required=True, help="folder of shards, such as 'mobileclip2 import' writes"),
    argument(
        "--evaluate",
        type=local_path,
        action="append",
        default=[],
        metavar="SET",
        help="evaluation set; can be repeated",
    ),
    argument("--output", type=local_path, default=Path("mobileclip2.yaml"), help="by default mobileclip2.yaml"),
    argument("--start", choices=("small", "released"), help="train a small student, or fine-tune the released S0"),
    examples=("init --images shards/ --evaluate evaluation/mine/",),
)
def init(chosen: argparse.Namespace) -> None:
    """Write a profile for your own shards that runs as it is."""
    from pipelines.init import ask_start, profile_name, write_profile

    name = profile_name(chosen.output.resolve().parent)
    write_profile(chosen.images, chosen.evaluate, chosen.output, name, chosen.start or ask_start())
    print(f"{chosen.output}: written; 'mobileclip2 plan' shows what would run, 'mobileclip2 run' runs it")


@command(
    "search",
    argument(
        "model", complete=complete_students, help="student/x of the profile, a folder, architecture:tag or hf-hub:name"
    ),
    argument("query", nargs="+", help="texts (or a picture), then the folder of pictures"),
    argument("--top", type=int, default=12, help="pictures for each query, by default 12"),
    argument("--page", type=local_file, default=Path("search.html"), help="by default search.html"),
    examples=('search student/mine "a red bicycle" photos/',),
)
def search_folder(chosen: argparse.Namespace) -> None:
    """Rank the pictures of a folder by a text, and write a page that shows them."""
    *queries, folder = chosen.query
    if not queries:
        chosen.error('give a query and a folder: mobileclip2 search student/mine "a red bicycle" photos/')
    if is_url(folder):
        chosen.error("the folder of pictures is a URL; give the path of a local folder")
    if chosen.top < 1:
        chosen.error("--top must be at least 1")
    profile = profile_path(chosen.profile or default_profile())
    with doing("importing modules"):
        from pipelines.search import search_pictures

    search_pictures(chosen.model, profile, queries, Path(folder), chosen.page, chosen.top)


@command("check", examples=("check", "check --profile my.yaml"))
def check(chosen: argparse.Namespace) -> None:
    """Open one sample of every input, size every model, estimate what a run needs; computes nothing."""
    pipeline = pipeline_of(chosen)
    with doing("importing"):
        from pipelines.check import check_profile

    check_profile(pipeline)


@command(
    "plan",
    ASSETS,
    argument("--json", action="store_true", help="print JSON"),
    argument("--verify", action="store_true", help="hash every stored byte, which can take long"),
    examples=("plan", "plan student/reinforced", "plan --json --profile my.yaml"),
)
def show_plan(chosen: argparse.Namespace) -> None:
    """Show what would be computed, why, and its cost; computes nothing."""
    from mobileclip2.engine.plan import plan
    from pipelines.show import plan_as_json, plan_as_table

    gc.disable()  # a plan creates a million objects and frees none, so collections only cost time
    pipeline = pipeline_of(chosen)
    with doing("planning"):
        planned = plan(pipeline, chosen.assets, every_byte=chosen.verify)
    print(plan_as_json(planned) if chosen.json else plan_as_table(planned, width=terminal_width()), end="")


@command(
    "run",
    ASSETS,
    REPORT,
    argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="asset-group pairs to compute at once, each in a process of its own with a share of the cores; by default 1",
    ),
    *DAGSTER,
    argument(
        "--rehearse",
        type=local_path,
        metavar="FOLDER",
        help="run the profile at a thousandth of its size in this folder, with generated data and small random models",
    ),
    examples=(
        "run",
        "run student/reinforced",
        "run --profile my.yaml evaluation/reinforced",
        "run --profile dfndr-12m --rehearse rehearsal",
        "run --dagster http://127.0.0.1:3000  # one backfill, for a running daemon",
    ),
)
def run_missing(chosen: argparse.Namespace) -> None:
    """Compute what is missing through Dagster, here or on a Dagster server.

    Then write the ledger and the report. A server only materializes.
    """
    if server := server_of(chosen):
        from pipelines.remote import refresh_remotely

        if chosen.report or chosen.rehearse or chosen.jobs > 1:
            chosen.error("--report, --rehearse and --jobs cannot be combined with --dagster")
        refresh_remotely(server, chosen.assets, chosen.location, chosen.wait or 60)
        return
    if chosen.rehearse:
        with doing("writing the rehearsal"):
            from mobileclip2.config.profile import load
            from pipelines.rehearsal.profile import rehearse

            profile = rehearse(load(profile_path(chosen.profile or default_profile())), chosen.rehearse)
        chosen.profile = str(profile)
        chosen.report = chosen.report or chosen.rehearse / "report.html"
    pipeline = pipeline_of(chosen)
    with doing("importing"):
        from pipelines.run import run

    run(pipeline, chosen.assets, chosen.display, jobs=chosen.jobs)
    ledger_line = update_ledger(pipeline, chosen.assets) if pipeline.profile.ledger else ""
    if not chosen.assets:
        report(pipeline, chosen.report)
    print(ledger_line, end="")


@command(
    "evaluate",
    argument("--student", required=True, complete=complete_students, help="student or teacher to evaluate"),
    argument("--baseline", help="a model of the profile, a file or folder of results, or a git revision"),
    argument("--markdown", type=local_file, help="also write the table to this file"),
    *DAGSTER,
    examples=(
        "evaluate --student reinforced --baseline plain",
        "evaluate --student reinforced --baseline origin/main --markdown comparison.md",
    ),
)
def evaluate_student(chosen: argparse.Namespace) -> int:
    """Compare a student with a baseline and the published models; fails if it is worse."""
    if server := server_of(chosen):
        from pipelines.remote import evaluate_remotely

        return evaluate_remotely(
            server, chosen.student, chosen.baseline, chosen.location, chosen.wait or 60, chosen.markdown
        )
    with doing("importing"):
        from pipelines.evaluate import evaluate

    return evaluate(pipeline_of(chosen), chosen.student, chosen.baseline, chosen.markdown, chosen.display)


def server_of(chosen: argparse.Namespace) -> Server | None:
    """Return the chosen Dagster server, or None if the command runs here."""
    from pipelines.graphql import TOKEN, Server

    if not chosen.dagster:
        if chosen.location or chosen.wait:
            chosen.error("--location and --wait need --dagster")
        return None
    if chosen.profile:
        chosen.error("--profile cannot be combined with --dagster, which uses the server's profile")
    return Server(chosen.dagster, os.environ.get(TOKEN, ""))


@command(
    "export",
    STUDENT,
    argument("--format", required=True, choices=("onnx", "torchscript", "openclip", "safetensors", "coreml")),
    argument("--to", type=local_path, required=True, help="the new folder"),
    argument("--int8", action="store_true", help="quantize to int8; onnx only"),
    examples=("export reinforced --format onnx --to reinforced-onnx",),
)
def export_student(chosen: argparse.Namespace) -> None:
    """Write a trained student as files that run without this project, and compare their outputs with it."""
    pipeline, student = student_of(chosen)
    with doing("importing"):
        from pipelines.student import export_and_show

    export_and_show(pipeline, student, chosen.to, chosen.format, int8=chosen.int8)


@command(
    "latency",
    STUDENT,
    argument("--json", action="store_true", help="print JSON"),
    examples=("latency reinforced",),
)
def show_latency(chosen: argparse.Namespace) -> None:
    """Measure the latency of a student's towers on this machine."""
    pipeline, student = student_of(chosen)
    with doing("importing"):
        from pipelines.student import latency

    latency(pipeline, student.name, as_json=chosen.json)


@command(
    "lineage",
    argument(
        "of",
        complete=complete_assets,
        help="an asset such as student/reinforced, or a lineage.json beside a checkpoint",
    ),
    examples=("lineage student/reinforced", "lineage some/folder/lineage.json"),
)
def show_lineage(chosen: argparse.Namespace) -> None:
    """Show what a checkpoint was made from, down to shards and weights."""
    from mobileclip2.engine.lineage import read_lineage
    from mobileclip2.engine.trace import lineage_of
    from pipelines.show import lineage_as_tree

    pipeline, name = pipeline_of(chosen), chosen.of
    if name not in pipeline.graph and (name.endswith(".json") or Path(name).exists()):
        lineage = read_lineage(Path(name))
    else:
        lineage = lineage_of(pipeline, find(name, pipeline.graph, "asset"))
    print(lineage_as_tree(lineage, width=terminal_width()), end="")


@command(
    "gc",
    argument("others", nargs="*", help="names or files of other profiles that share the store"),
    argument("--delete", action="store_true", help="delete the listed outputs"),
    argument(
        "--keep",
        type=local_path,
        action="append",
        default=[],
        help="folder of checkpoints to keep with their inputs; can be repeated",
    ),
    examples=("gc", "gc other.yaml --keep checkpoints --delete"),
)
def collect_garbage(chosen: argparse.Namespace) -> None:
    """List stored outputs that no profile, commit, run or kept checkpoint needs."""
    from mobileclip2.config.profile import load
    from mobileclip2.engine import gc as garbage
    from mobileclip2.engine.pipeline import Pipeline
    from mobileclip2.ledger.committed import committed_paths
    from mobileclip2.ledger.paths import CHECKPOINTS
    from mobileclip2.ledger.stages import ledger_folder
    from mobileclip2.store.user_cache import UNUSED_SECONDS, cache_folder, sweep
    from pipelines.show import unneeded_as_table
    from pipelines.tables import amount

    pipeline = pipeline_of(chosen)
    sharing = [pipeline, *(Pipeline(load(profile_path(other))) for other in chosen.others)]
    profiles = [each.profile for each in sharing]
    lineages = [file for folder in chosen.keep for file in garbage.lineages_in(folder)]
    for profile in profiles:
        if profile.ledger:
            lineages += (ledger_folder(profile) / CHECKPOINTS).rglob("lineage.json")
    committed = set().union(*map(committed_paths, profiles))
    outputs = garbage.unneeded(sharing, committed, lineages)
    if chosen.delete:
        outputs = garbage.delete(pipeline, outputs)
        if swept := sweep(unused_seconds=UNUSED_SECONDS):
            print(f"{amount(swept)} deleted from the cache in {cache_folder()}")
    print(unneeded_as_table(outputs, width=terminal_width(), deleted=chosen.delete), end="")


@command("ledger")
def write_ledger(chosen: argparse.Namespace) -> None:
    """Write the DVC ledger of the materialized assets; computes nothing."""
    print(ledger(pipeline_of(chosen)), end="")


@command(
    "report",
    argument("student", nargs="?", complete=complete_students, help="write the report of this student"),
    REPORT,
    examples=("report", "report reinforced --report reinforced.html"),
)
def write_report(chosen: argparse.Namespace) -> None:
    """Write the HTML report of the materialized assets, or of one student, and print the results."""
    if not chosen.student:
        report(pipeline_of(chosen), chosen.report)
        return
    pipeline, student = student_of(chosen)
    with doing("importing"):
        from pipelines.student import student_report

    student_report(pipeline, student.name, chosen.report or Path(f"report-{student.name}.html"))


@command(
    "tensorboard",
    argument("folder", type=local_path, help="folder of the event files, a run for each training"),
    examples=("tensorboard runs",),
)
def write_tensorboard(chosen: argparse.Namespace) -> None:
    """Write the metrics of stored trainings as event files of TensorBoard."""
    pipeline = pipeline_of(chosen)
    with doing("importing"):
        from mobileclip2.report.tensorboard import write_events

    runs = write_events(pipeline, chosen.folder)
    print(f"{chosen.folder}: {len(runs)} trainings{': ' if runs else ''}{', '.join(runs)}")
    print(f"show them with: tensorboard --logdir {chosen.folder}" if runs else "run 'mobileclip2 run' first")


@command(
    "completion",
    argument("shell", choices=("bash", "zsh", "fish")),
    examples=(
        "completion bash >> ~/.bash_completion",
        "completion zsh >> ~/.zshrc",
        "completion fish > ~/.config/fish/completions/mobileclip2.fish",
    ),
)
def print_completion(chosen: argparse.Namespace) -> None:
    """Print the shell code that completes commands, profiles and assets."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["mobileclip2"], shell=chosen.shell))


def report(pipeline: Pipeline, path: Path | None) -> None:
    """Write the HTML report, and print the table of results."""
    with doing("importing"):
        from mobileclip2.report.gather import gather
        from mobileclip2.report.page import write_page
        from mobileclip2.report.pipeline import metric_rows, render_pipeline
        from pipelines.tables import new_table, show

    path = path or Path("report.html")
    with doing("writing the report"):
        gathered = gather(pipeline)
        write_page(render_pipeline(gathered), path)
    names = tuple(model.name for model in gathered.models)
    table = new_table("set", "metric", *names, right=names, title=gathered.title)
    for row in metric_rows(gathered.models):
        shares = ["" if value is None else f"{value:.1%}" for value in row.values]
        table.add_row(row.set if row.first else "", row.metric, *shares)
    show(table)
    for highlight in gathered.highlights:
        show(f"{highlight.label}: {highlight.value} ({highlight.note})")
    show(f"report: {path}")


def ledger(pipeline: Pipeline) -> str:
    """Write the DVC ledger of the materialized assets, and return a summary line."""
    with doing("writing the ledger"):
        from mobileclip2.ledger.record import record

        recorded = record(pipeline)
    total = len(pipeline.graph)
    if not recorded.missing:
        return f"ledger: all {total} assets are recorded\n"
    return f"ledger: {len(recorded.current)} of {total} assets are recorded; not computed yet: {', '.join(recorded.missing)}\n"


def update_ledger(pipeline: Pipeline, assets: list[str]) -> str:
    """Write the ledger after a run, and return a summary line. A ledger that cannot be written does not fail the run."""
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
