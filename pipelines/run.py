"""Materialize what is missing through Dagster, in one run for each asset and group, without a daemon."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext, suppress

from rich.console import Console

from mobileclip2.asset_key import Partition
from mobileclip2.extras import needs

with needs("pipeline"):
    import dagster as dg

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import selected
from mobileclip2.errors import StoreError, UserError
from mobileclip2.progress import Step, doing
from mobileclip2.stages.published_weights import check_published_weights
from pipelines.asset_definitions import stages
from pipelines.asset_run import materialize
from pipelines.display import Display
from pipelines.instance import instance
from pipelines.jobs import Jobs
from pipelines.observe import report
from pipelines.schedule import Schedule
from pipelines.supervise import RunDisplay


def run(pipeline: Pipeline, only: list[str] | None = None, display: RunDisplay | None = None, *, jobs: int = 1) -> int:
    """Call :func:`refresh` with the instance of this checkout, and show its progress, by default as lines of a log."""
    logging.getLogger("dagster").setLevel(logging.ERROR)
    display = display or Display(Console(file=sys.stderr, force_terminal=False))
    with doing("planning"):
        keys = selected(pipeline, only)
        total = sum(len(pipeline.groups(pipeline.graph[key])) for key in keys)
        display.plan(total)
    with doing("opening Dagster's history"):
        dagster = instance()
    with dagster:
        runs = refresh(pipeline, dagster, only, display, jobs)
    if runs:
        stored = f"; {total - runs} were already stored" if runs < total else ""
        display.say(f"computed {runs} asset-group pairs{stored}")
    else:
        display.say(f"nothing to compute: all {total} asset-group pairs are stored")
    return runs


def refresh(
    pipeline: Pipeline, dagster: dg.DagsterInstance, only: list[str] | None, observer: RunDisplay, jobs: int = 1
) -> int:
    """Materialize every missing slice in order, tell Dagster what the store has, and return the number of runs.

    After a failure, everything that does not depend on it is computed.

    Args:
        only: Keys of the assets to compute, with their upstream assets. Default: all.
        jobs: Number of asset-group pairs at once. If it is not 1, each has a process of its own, and ``dagster`` must be the
            instance of this checkout.

    Raises:
        UserError: Some stages failed. The message has all failures. Finished shards are kept.
    """
    keys = selected(pipeline, only)
    check_published_weights(pipeline, keys)
    schedule, runs, failures = Schedule(pipeline, keys), 0, list[UserError]()
    runner = Jobs(pipeline, dagster, observer, jobs) if jobs > 1 else ThisProcess(pipeline, dagster, observer)
    try:
        with pipeline.run_lease() as lease, runner:
            while True:
                while len(runner) < jobs and (partition := schedule.next()):
                    lease.check()
                    try:
                        with doing("reading the store"):
                            missing = pipeline.missing(pipeline.graph[partition.asset], partition.group)
                    except StoreError:
                        raise
                    except UserError as error:  # an external input of this asset is missing
                        failures.append(error)
                        observer.fail(str(partition))
                        continue
                    if missing:
                        observer.begin(str(partition))
                        runner.start(partition)
                    else:
                        schedule.finish(partition)
                        observer.end(str(partition))
                if len(runner) == 0:
                    break
                partition, failure = runner.wait()
                pipeline.invalidate_downstream(pipeline.graph[partition.asset], partition.group)
                if failure:
                    failures.append(failure)
                    observer.fail(str(partition))
                else:
                    runs += 1
                    schedule.finish(partition)
                    observer.end(str(partition))
    finally:
        # the failed stage has already reported a missing external input
        with suppress(UserError), doing("reporting to Dagster"):
            report(pipeline, dagster)
    if failures:
        raise UserError(_all_failures(failures, len(schedule.pending)))
    return runs


def _all_failures(failures: list[UserError], blocked: int) -> str:
    messages = list(dict.fromkeys(map(str, failures)))
    if len(failures) > 1 or blocked:
        depending = f"; {blocked} depend on them and were not computed" if blocked else ""
        messages.append(f"{len(failures)} asset-group pairs failed{depending}. Everything else is stored")
    return "\n".join(messages)


class ThisProcess(nullcontext[None]):
    """Computes one asset and group at a time in this process. It has the methods of :class:`~pipelines.jobs.Jobs`."""

    def __init__(self, pipeline: Pipeline, dagster: dg.DagsterInstance, observer: RunDisplay) -> None:
        super().__init__()
        self._pipeline, self._dagster, self._observer = pipeline, dagster, observer
        self._repository = stages(pipeline.profile, self._step).get_repository_def()
        self._current: Partition | None = None

    def __len__(self) -> int:
        return int(self._current is not None)

    def start(self, partition: Partition) -> None:
        """Set the asset and group that :meth:`wait` computes."""
        self._current = partition

    def wait(self) -> tuple[Partition, UserError | None]:
        """Compute the asset and group, and return it with its error."""
        partition, failure = self._current, None
        assert partition
        try:
            materialize(self._pipeline.profile, self._repository, self._dagster, partition)
        except UserError as error:
            failure = error
        self._current = None
        return partition, failure

    def _step(self, step: Step) -> None:
        self._observer.step(str(self._current), step)
