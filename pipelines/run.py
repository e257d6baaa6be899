"""Materialises what is missing through Dagster, one run for each asset and group, with a live display."""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from mobileclip2.extras import needs

with needs("pipeline"):
    import dagster as dg

from assets.materialize import WATCHERS
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import selected
from mobileclip2.errors import UserError
from mobileclip2.progress import Step
from mobileclip2.store.lease import hold
from pipelines import launched
from pipelines.current import report_current


def instance() -> dg.DagsterInstance:
    """The Dagster instance of this checkout, so that the UI shows what the command line ran."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").resolve())))
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        settings.write_text((Path(__file__).parent / "dagster.yaml").read_text())
    return dg.DagsterInstance.get()


class Watch(Protocol):
    """Whoever shows where a refresh is."""

    def begin(self, asset: Asset, group: str | None) -> None: ...

    def step(self, step: Step) -> None: ...

    def end(self, asset: Asset, group: str | None) -> None:
        """Also called, without ``begin``, for what was there already."""


def run(pipeline: Pipeline, only: list[str] | None = None) -> int:
    """:func:`refresh` with a live display in a terminal, into the instance of this checkout."""
    logging.getLogger("dagster").setLevel(logging.ERROR)
    total = sum(len(pipeline.groups(pipeline.graph[key])) for key in selected(pipeline, only))
    with instance() as dagster, Display(total) as display:
        return refresh(pipeline, dagster, only, display)


def refresh(
    pipeline: Pipeline,
    dagster: dg.DagsterInstance,
    only: list[str] | None,
    watch: Watch,
    tags: dict[str, str] | None = None,
    within: dg.DagsterRun | None = None,
) -> int:
    """Materialises every missing part in order, or those of some assets and all they need; returns how many runs that took.

    Then every asset says whether it is current.

    Args:
        within: the run that this is part of; in a cluster it has others launched instead of computing itself.

    Raises:
        UserError: a stage failed; what it said, without a traceback. What was finished is kept.
    """
    from pipelines.definitions import stages

    repository = stages(pipeline).get_repository_def()
    one = materialise
    if pipeline.profile.compute.kubernetes and within and launched.is_launched(within):
        one = partial(launched.materialise, within)
    runs = 0
    WATCHERS.append(watch.step)
    try:
        with running(pipeline):
            for asset in [pipeline.graph[key] for key in selected(pipeline, only)]:
                for group in pipeline.groups(asset):
                    if pipeline.missing(asset, group):
                        watch.begin(asset, group)
                        one(repository, dagster, asset, group, tags)
                        runs += 1
                    watch.end(asset, group)
    finally:
        WATCHERS.remove(watch.step)
        with suppress(UserError):  # an outside input is gone: the stage that reads it has said so
            report_current(pipeline, dagster)
    return runs


def running(pipeline: Pipeline) -> AbstractContextManager[None]:
    """Tells everyone who looks at the store that this profile is being run, as long as this process lives."""
    return hold(pipeline.storage, [f"run/{socket.gethostname()}/{os.getpid()}"], pipeline.note)


def materialise(
    repository: dg.RepositoryDefinition,
    dagster: dg.DagsterInstance,
    asset: Asset,
    group: str | None,
    tags: dict[str, str] | None = None,
) -> None:
    """One Dagster run in this process for one asset and group.

    Raises:
        UserError: the stage failed in a way the user can mend.
    """
    key = dg.AssetKey(asset.key.split("/"))
    result = repository.get_implicit_global_asset_job_def().execute_in_process(
        instance=dagster,
        asset_selection=[key],
        partition_key=group,
        raise_on_error=False,
        run_config={"loggers": {"console": QUIET}},
        tags={**(tags or {}), "dagster/max_retries": "0"},  # only what Dagster has launched can it launch again
    )
    if not result.success:
        raise _cause(result, asset, group)


QUIET = {"config": {"log_level": "CRITICAL"}}


def _cause(result: dg.ExecuteInProcessResult, asset: Asset, group: str | None) -> UserError:
    place = f"{asset.key}{f' [{group}]' if group else ''}"
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data:
                return UserError(f"{place}: {failure.user_failure_data.description}")
            if failure.error:
                return UserError(f"{place}: {(failure.error.cause or failure.error).to_string()}")
    return UserError(f"{place}: the run failed; see the Dagster UI")


class Display:
    """A bar over all (asset, group) pairs and one for the step at hand; plain lines where there is no terminal."""

    def __init__(self, total: int) -> None:
        self.console = Console(stderr=True)
        self.bars = Bars(
            TextColumn("{task.description:44}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.total = total
        self.finished = 0
        self.started = 0.0

    def __enter__(self) -> Display:
        self.bars.start()
        self.all = self.bars.add_task("all assets and groups", total=self.total, numbers="")
        self.current = self.bars.add_task("", total=None, numbers="", visible=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def begin(self, asset: Asset, group: str | None) -> None:
        self.started = time.monotonic()
        place = f"{asset.key}{f' [{group}]' if group else ''}"
        self.bars.reset(self.current, description=place, total=None, numbers="", visible=True)

    def step(self, step: Step) -> None:
        numbers = "  ".join(f"{name} {value:.3g}" for name, value in step.numbers.items())
        self.bars.update(self.current, completed=step.done, total=step.total, numbers=f"{step.unit}  {numbers}")

    def end(self, asset: Asset, group: str | None) -> None:
        self.finished += 1
        self.bars.update(self.all, completed=self.finished)
        self.bars.update(self.current, visible=False)
        if self.started and not self.console.is_terminal:
            place = f"{asset.key}{f' [{group}]' if group else ''}"
            self.console.print(
                f"[{self.finished}/{self.total}] {place} in {time.monotonic() - self.started:.1f} s",
                markup=False,
            )
        self.started = 0.0
