"""Materialize what is missing through Dagster, in one run for each asset and group, and show the progress."""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Protocol

from rich.console import Console

from mobileclip2.extras import needs

with needs("pipeline"):
    import dagster as dg

from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import selected
from mobileclip2.errors import UserError
from mobileclip2.progress import Step, doing
from mobileclip2.stages.published_weights import check_published_weights
from mobileclip2.store.lease import acquire
from pipelines import launched, supervise
from pipelines.asset_definitions import stages
from pipelines.current import report_current
from pipelines.display import Display, label_of
from pipelines.instance import instance
from pipelines.processes import PROCESS_TAG, this_process


class RunObserver(Protocol):
    """Receives the progress of a refresh."""

    def begin(self, asset: Asset, group: str | None) -> None:
        """Receive the start of a pair."""

    def step(self, step: Step) -> None:
        """Receive the progress within a pair."""

    def end(self, asset: Asset, group: str | None) -> None:
        """Receive the end of a pair. A pair that was already stored has no ``begin``."""


def run(pipeline: Pipeline, only: list[str] | None = None) -> int:
    """Call :func:`refresh` with the instance of this checkout, and show the progress on the terminal or in the log."""
    logging.getLogger("dagster").setLevel(logging.ERROR)
    observer = DisplayObserver(supervise.channel or LogDisplay())
    with doing("planning"):
        keys = selected(pipeline, only)
        observer.plan(sum(len(pipeline.groups(pipeline.graph[key])) for key in keys))
    with doing("opening Dagster's history"):
        dagster = instance()
    with dagster:
        runs = refresh(pipeline, dagster, only, observer)
    observer.finish(runs)
    return runs


class LogDisplay:
    """Shows the progress of an unsupervised process as lines of a log."""

    def __init__(self) -> None:
        self._display = Display(Console(file=sys.stderr, force_terminal=False))

    def send(self, name: str, *arguments: object) -> None:
        """Call a method of the display."""
        getattr(self._display, name)(*arguments)


class DisplayChannel(Protocol):
    """Calls the methods of a :class:`~pipelines.display.Display`, here or in the parent process."""

    def send(self, name: str, *arguments: object) -> None:
        """Call a method of the display."""


class DisplayObserver:
    """A :class:`RunObserver` that shows a refresh on the terminal or in the log."""

    def __init__(self, channel: DisplayChannel) -> None:
        self._channel = channel
        self._total = 0

    def plan(self, total: int) -> None:
        """Send the number of pairs."""
        self._total = total
        self._channel.send("plan", total)

    def begin(self, asset: Asset, group: str | None) -> None:
        """Send the start of a pair."""
        self._channel.send("begin", label_of(asset.key, group))

    def step(self, step: Step) -> None:
        """Send the progress within a pair."""
        self._channel.send("advance", step.done, step.total, step.unit, step.numbers)

    def end(self, asset: Asset, group: str | None) -> None:
        """Send the end of a pair."""
        self._channel.send("end", label_of(asset.key, group))

    def finish(self, runs: int) -> None:
        """Show a summary of the runs."""
        if runs:
            stored = f"; {self._total - runs} were already stored" if runs < self._total else ""
            self._channel.send("say", f"computed {runs} asset-group pairs{stored}")
        else:
            self._channel.send("say", f"nothing to compute: all {self._total} asset-group pairs are stored")


def refresh(
    pipeline: Pipeline,
    dagster: dg.DagsterInstance,
    only: list[str] | None,
    observer: RunObserver,
    tags: dict[str, str] | None = None,
    within: dg.DagsterRun | None = None,
) -> int:
    """Materialize every missing slice in order, update the check ``current`` of every asset, and return the number of runs.

    Args:
        only: Keys of the assets to compute, with their upstream assets. Default: all.
        within: The run that this refresh is part of. In a cluster, it launches a run for each pair.

    Raises:
        UserError: A stage failed. Finished shards are kept.
    """
    repository = stages(pipeline, observer.step).get_repository_def()
    run_pair = materialize
    if pipeline.profile.compute.kubernetes and within and launched.is_launched(within):
        run_pair = partial(launched.materialize, within)
    runs = 0
    keys = selected(pipeline, only)
    if run_pair is materialize:  # in a cluster, the weights are in the image of the runs
        check_published_weights(pipeline, keys)
    try:
        with run_lease(pipeline):
            for asset in [pipeline.graph[key] for key in keys]:
                for group in pipeline.groups(asset):
                    with doing("reading the store"):
                        missing = pipeline.missing(asset, group)
                    if missing:
                        observer.begin(asset, group)
                        run_pair(repository, dagster, asset, group, tags)
                        runs += 1
                    observer.end(asset, group)
    finally:
        # the failed stage has already reported a missing external input
        with suppress(UserError), doing("updating the check 'current'"):
            report_current(pipeline, dagster)
    return runs


def run_lease(pipeline: Pipeline) -> AbstractContextManager[None]:
    """Hold a lease in the store while this process runs the profile, so that gc keeps its outputs."""
    return acquire(pipeline.storage, [f"run/{socket.gethostname()}/{os.getpid()}"], pipeline.note)


def materialize(
    repository: dg.RepositoryDefinition,
    dagster: dg.DagsterInstance,
    asset: Asset,
    group: str | None,
    tags: dict[str, str] | None = None,
) -> None:
    """Execute one Dagster run for an asset and group in this process.

    Raises:
        UserError: The stage failed with an error that the user can fix.
        KeyboardInterrupt: The run was interrupted; Dagster records it as canceled.
    """
    key = dg.AssetKey(asset.key.split("/"))
    result = repository.get_implicit_global_asset_job_def().execute_in_process(
        instance=dagster,
        asset_selection=[key],
        partition_key=group,
        raise_on_error=False,
        run_config={"loggers": {"console": QUIET}},
        # Dagster can retry only runs that it launched
        tags={**(tags or {}), "dagster/max_retries": "0", PROCESS_TAG: this_process()},
    )
    if not result.success:
        if _was_interrupted(result):
            dagster.report_run_canceled(result.dagster_run, f"Stopped; {supervise.KEPT}.")
            raise KeyboardInterrupt
        raise _cause(result, asset, group)


QUIET = {"config": {"log_level": "CRITICAL"}}


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Return whether a signal to this process ended the run."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return any(
        error and error.cls_name in {"DagsterExecutionInterruptedError", "KeyboardInterrupt"} for error in errors
    )


def _cause(result: dg.ExecuteInProcessResult, asset: Asset, group: str | None) -> UserError:
    label = label_of(asset.key, group)
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data:
                return UserError(f"{label}: {failure.user_failure_data.description}")
            if failure.error:
                return UserError(f"{label}: {(failure.error.cause or failure.error).to_string()}")
    return UserError(f"{label}: the run failed; see the Dagster UI")
