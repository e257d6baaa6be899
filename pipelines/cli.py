"""``mobileclip2``: the command line over the same assets that the UI shows."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mobileclip2.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when all is well, 1 when something the user can mend went wrong, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="mobileclip2", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, explanation in {
        "check": "check a profile and the inputs it names, and show its graph",
        "run": "materialise what is missing, in order, through Dagster",
        "report": "write the HTML report of what is materialised and print the table of results",
    }.items():
        command = commands.add_parser(name, help=explanation)
        command.add_argument(
            "--profile", default=os.environ.get("MOBILECLIP2_PROFILE", "demo"), help="built-in name or file"
        )
        if name in {"run", "report"}:
            command.add_argument("--report", type=Path, default=Path("report.html"), help="where the report goes")
    chosen = parser.parse_args(arguments)
    try:
        return _dispatch(chosen)
    except UserError as error:
        print(f"mobileclip2: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mobileclip2: stopped; finished shards are kept, run again to go on", file=sys.stderr)
        return 130


def _dispatch(chosen: argparse.Namespace) -> int:
    from pipelines.definitions import profile_path

    path = profile_path(chosen.profile)
    os.environ["MOBILECLIP2_PROFILE"] = str(path)
    from mobileclip2.pipeline import Pipeline
    from mobileclip2.profile import load

    pipeline = Pipeline(load(path))
    if chosen.command == "check":
        return check(pipeline)
    if chosen.command == "run":
        from pipelines.run import run

        run(pipeline)
    from mobileclip2.report.write import write_report

    write_report(pipeline, chosen.report)
    return 0


def check(pipeline: Pipeline) -> int:  # noqa: F821
    """Resolves every outside input and says what the graph holds."""
    from collections import Counter

    shards = pipeline.contents.shards
    for asset in pipeline.graph.values():
        for part in asset.parts.values():
            for external in part.externals.values():
                for group in pipeline.groups(asset):
                    pipeline.contents.digest(external, group)
    stages = Counter(asset.stage for asset in pipeline.graph.values())
    print(f"{pipeline.profile.name}: {len(shards)} shards in {pipeline.profile.groups} groups")
    for stage, count in stages.items():
        print(f"  {stage:20} {count} asset{'s' if count > 1 else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
