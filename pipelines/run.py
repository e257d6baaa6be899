"""Materializes what is missing through Dagster, one run for each asset and group, and shows where it is."""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console

from mobileclip2.extras import needs

with needs("pipeline"):
    import dagster as dg

from assets.materialize import WATCHERS
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import selected
from mobileclip2.errors import UserError
from mobileclip2.progress import Step, doing
from mobileclip2.stages.published_weights import check_published_weights
from mobileclip2.store.lease import acquire
from pipelines import launched, supervise
from pipelines.current import report_current
from pipelines.display import Display, place_of
from pipelines.processes import PROCESS_TAG, this_process


def instance() -> dg.DagsterInstance:
    """The Dagster instance of this checkout, so that the UI shows what the command line ran."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").resolve())))
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        settings.write_text((Path(__file__).parent / "dagster.yaml").read_text())
    return dg.DagsterInstance.get()


class RunObserver(Protocol):
    """Whoever shows where a refresh is."""

    def begin(self, asset: Asset, group: str | None) -> None: ...

    def step(self, step: Step) -> None: ...

    def end(self, asset: Asset, group: str | None) -> None:
        """Also called, without ``begin``, for what was there already."""


def run(pipeline: Pipeline, only: list[str] | None = None) -> int:
    """:func:`refresh` into the instance of this checkout, shown on the terminal or in the log."""
    logging.getLogger("dagster").setLevel(logging.ERROR)
    shown = Shown(supervise.channel or Direct())
    with doing("planning"):
        keys = selected(pipeline, only)
        shown.plan(sum(len(pipeline.groups(pipeline.graph[key])) for key in keys))
    with doing("opening Dagster's history"):
        dagster = instance()
    with dagster:
        runs = refresh(pipeline, dagster, only, shown)
    shown.finish(runs)
    return runs


class Direct:
    """Shows progress in the lines of a log: of a process that nobody supervises."""

    def __init__(self) -> None:
        self._display = Display(Console(file=sys.stderr, force_terminal=False))

    def send(self, name: str, *arguments: object) -> None:
        getattr(self._display, name)(*arguments)


class Sender(Protocol):
    def send(self, name: str, *arguments: object) -> None: ...


class Shown:
    """A :class:`RunObserver` that shows a refresh on the terminal or in the log."""

    def __init__(self, to: Sender) -> None:
        self._to = to
        self._total = 0

    def plan(self, total: int) -> None:
        self._total = total
        self._to.send("plan", total)

    def begin(self, asset: Asset, group: str | None) -> None:
        self._to.send("begin", place_of(asset.key, group))

    def step(self, step: Step) -> None:
        self._to.send("advance", step.done, step.total, step.unit, step.numbers)

    def end(self, asset: Asset, group: str | None) -> None:
        self._to.send("end", place_of(asset.key, group))

    def finish(self, runs: int) -> None:
        """Say in words what was done."""
        if runs:
            there = f"; {self._total - runs} were there already" if runs < self._total else ""
            self._to.send("say", f"computed {runs} asset-group pairs{there}")
        else:
            self._to.send("say", f"nothing to compute: all {self._total} asset-group pairs are there")


def refresh(
    pipeline: Pipeline,
    dagster: dg.DagsterInstance,
    only: list[str] | None,
    watch: RunObserver,
    tags: dict[str, str] | None = None,
    within: dg.DagsterRun | None = None,
) -> int:
    """Materializes every missing part in order, or those of some assets and all they need; returns how many runs that took.

    Then every asset says whether it is current.

    Args:
        within: the run that this is part of; in a cluster it has others launched instead of computing itself.

    Raises:
        UserError: a stage failed; what it said, without a traceback. What was finished is kept.
    """
    from pipelines.definitions import stages

    repository = stages(pipeline).get_repository_def()
    one = materialize
    if pipeline.profile.compute.kubernetes and within and launched.is_launched(within):
        one = partial(launched.materialize, within)
    runs = 0
    keys = selected(pipeline, only)
    if one is materialize:  # a run in a cluster takes weights from its image
        check_published_weights(pipeline, keys)
    WATCHERS.append(watch.step)
    try:
        with running(pipeline):
            for asset in [pipeline.graph[key] for key in keys]:
                for group in pipeline.groups(asset):
                    with doing("looking at the store"):
                        missing = pipeline.missing(asset, group)
                    if missing:
                        watch.begin(asset, group)
                        one(repository, dagster, asset, group, tags)
                        runs += 1
                    watch.end(asset, group)
    finally:
        WATCHERS.remove(watch.step)
        # an outside input may be gone: the stage that reads it has said so
        with suppress(UserError), doing("noting what is current"):
            report_current(pipeline, dagster)
    return runs


def running(pipeline: Pipeline) -> AbstractContextManager[None]:
    """Tells everyone who looks at the store that this profile is being run, as long as this process lives."""
    return acquire(pipeline.storage, [f"run/{socket.gethostname()}/{os.getpid()}"], pipeline.note)


def materialize(
    repository: dg.RepositoryDefinition,
    dagster: dg.DagsterInstance,
    asset: Asset,
    group: str | None,
    tags: dict[str, str] | None = None,
) -> None:
    """One Dagster run in this process for one asset and group.

    Raises:
        UserError: the stage failed in a way the user can mend.
        KeyboardInterrupt: somebody stopped it; Dagster has it as canceled.
    """
    key = dg.AssetKey(asset.key.split("/"))
    result = repository.get_implicit_global_asset_job_def().execute_in_process(
        instance=dagster,
        asset_selection=[key],
        partition_key=group,
        raise_on_error=False,
        run_config={"loggers": {"console": QUIET}},
        # only what Dagster has launched can it launch again
        tags={**(tags or {}), "dagster/max_retries": "0", PROCESS_TAG: this_process()},
    )
    if not result.success:
        if _was_stopped(result):
            dagster.report_run_canceled(result.dagster_run, f"Stopped; {supervise.KEPT}.")
            raise KeyboardInterrupt
        raise _cause(result, asset, group)


QUIET = {"config": {"log_level": "CRITICAL"}}


def _was_stopped(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a signal to this process ended the run."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return any(
        error and error.cls_name in {"DagsterExecutionInterruptedError", "KeyboardInterrupt"} for error in errors
    )


def _cause(result: dg.ExecuteInProcessResult, asset: Asset, group: str | None) -> UserError:
    place = place_of(asset.key, group)
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data:
                return UserError(f"{place}: {failure.user_failure_data.description}")
            if failure.error:
                return UserError(f"{place}: {(failure.error.cause or failure.error).to_string()}")
    return UserError(f"{place}: the run failed; see the Dagster UI")
