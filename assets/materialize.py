"""Define a Dagster asset for an asset of the library's graph."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from assets.checks import Check, blocking_failures
from assets.keys import dagster_key, named
from assets.metadata import definition_metadata, result_metadata
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline, RunStatus
from mobileclip2.errors import UserError
from mobileclip2.fingerprint import fingerprint
from mobileclip2.progress import Progress, Step
from mobileclip2.store import ManifestSummary

logger = logging.getLogger(__name__)

LOST_POD = dg.RetryPolicy(max_retries=3, delay=30)
"""for a step whose pod is killed or evicted"""

OUTPUT_TAG = "mobileclip2/output"
"""tag of a materialization: a hash of the fingerprints of its slices, which cover everything that they were made from"""


def partitions_of(profile: Profile, asset: Asset) -> dg.StaticPartitionsDefinition | None:
    """Return the partitions of an asset: its slices, the groups of shards, or None."""
    if asset.by_slice:
        return dg.StaticPartitionsDefinition(list(asset.slices))
    return dg.StaticPartitionsDefinition(profile.group_names) if asset.grouped else None


def define(
    profile: Profile,
    asset: Asset,
    *,
    section: str,
    kinds: set[str],
    metadata: Callable[[Pipeline, MaterializeResult], Mapping[str, Any]] | None = None,
    checks: Sequence[Check] = (),
) -> dg.AssetsDefinition:
    """Define a Dagster asset that computes the missing slices of ``asset`` and reports its data version."""
    key = dagster_key(asset.key, profile)
    pipeline_key, on_step_key = named("pipeline", profile), named("on_step", profile)
    partitions = partitions_of(profile, asset)

    @dg.asset(
        key=key,
        group_name=named(section, profile),
        description=asset.description,
        kinds=kinds,
        owners=["team:mobileclip2"],
        metadata=definition_metadata(profile, asset, metadata, *(check.judge for check in checks)),
        tags={"stage": asset.stage} | ({"name": asset.name} if asset.name else {}),
        code_version=asset.code_version,
        deps=[dagster_key(upstream, profile) for upstream in asset.upstream],
        partitions_def=partitions,
        # one run for each partition: Dagster gives all partitions of a run the same data version
        backfill_policy=dg.BackfillPolicy.multi_run(1) if partitions else None,
        # a cluster can lose the pod of a step; a failure of the stage itself sets allow_retries=False
        retry_policy=LOST_POD if profile.compute.kubernetes else None,
        required_resource_keys={pipeline_key, on_step_key},
        check_specs=[check.spec(key) for check in checks],
    )
    def materialize(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]  # Dagster takes no subscripted annotation
        pipeline: Pipeline = getattr(context.resources, pipeline_key)
        on_step: Progress = getattr(context.resources, on_step_key)
        group = context.partition_key if partitions else None
        try:
            result = pipeline.materialize(asset.key, group, log_progress(context, on_step), LaunchedRun(context))
        except UserError as error:
            # the run's page shows the message of a Failure above the traceback, and that of other exceptions below
            raise dg.Failure(str(error), allow_retries=False) from None
        found = [check.evaluate(pipeline, result) for check in checks]
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(result.data_version),
            tags={OUTPUT_TAG: output_of(result.summaries)},
            metadata={**(metadata(pipeline, result) if metadata else {}), **result_metadata(pipeline, result)},
            check_results=found,
        )
        if failures := blocking_failures(found, checks):
            # Dagster's own error names the check only
            raise dg.Failure(failures, allow_retries=False)

    return materialize


def output_of(summaries: Mapping[str, ManifestSummary]) -> str:
    """Return the value of :data:`OUTPUT_TAG`."""
    return fingerprint({name: summary.fingerprint for name, summary in summaries.items()})


class LaunchedRun(RunStatus):
    """The status of a step's run in Dagster's storage.

    A run that a run launcher started continues in another pod when this one is evicted. Every other run ends with its process.
    """

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._instance, self._run = context.instance, context.run

    def is_ended(self) -> bool:
        """Return whether the run was canceled, deleted or has failed."""
        if self._run.remote_job_origin is None:
            return False
        try:
            run = self._instance.get_run_by_id(self._run.run_id)
        except Exception as error:  # of any database: its outage must not stop the work
            logger.warning("the status of run %s is unknown: %s", self._run.run_id, error)
            return False
        return run is None or run.is_finished or run.status == dg.DagsterRunStatus.CANCELING

    def will_resume(self) -> bool:
        """Return whether a run launcher started the run and the run has not ended."""
        return self._run.remote_job_origin is not None and not self.is_ended()


LOG_EVERY_SECONDS = 10.0


def log_progress(context: dg.AssetExecutionContext, on_step: Progress) -> Progress:
    """Log steps and rates, at most one line in :data:`LOG_EVERY_SECONDS`, and pass every step to ``on_step``."""
    started = last = time.monotonic()

    def progress(step: Step) -> None:
        nonlocal last
        on_step(step)
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS:
            last = now
            rate = step.done / (now - started)
            remaining = (step.total - step.done) / rate if rate else float("inf")
            numbers = "".join(f", {name} {value:.4g}" for name, value in step.numbers.items())
            context.log.info(f"{step.done}/{step.total} {step.unit}, {rate:.1f}/s, {remaining:.0f} s left{numbers}")

    return progress
