"""From an asset of the library's graph to one of Dagster's: the shape that every stage module fills in."""

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline
from mobileclip2.errors import UserError
from mobileclip2.progress import Progress, Step

OWNERS = ["team:mobileclip2"]

# known, and pinned: without this every process that loads the definitions says so once an asset
warnings.filterwarnings("ignore", "Parameter `backfill_policy`", dg.BetaWarning)

LOST_POD = dg.RetryPolicy(max_retries=3, delay=30)

Metadata = Callable[[Pipeline, MaterializeResult], Mapping[str, Any]]


def partitions_of(profile: Profile, asset: Asset) -> dg.StaticPartitionsDefinition | None:
    """Return the partitions of an asset: its parts, the groups of shards, or None."""
    if asset.by_part:
        return dg.StaticPartitionsDefinition(list(asset.parts))
    return dg.StaticPartitionsDefinition(profile.group_names) if asset.grouped else None


def define(
    profile: Profile,
    asset: Asset,
    *,
    section: str,
    kinds: set[str],
    metadata: Metadata | None = None,
    check: Callable[[Pipeline, MaterializeResult], dg.AssetCheckResult] | None = None,
    check_name: str = "",
) -> dg.AssetsDefinition:
    """Define a Dagster asset that computes the missing parts of ``asset`` and mirrors its data version."""
    key = dg.AssetKey(asset.key.split("/"))
    partitions = partitions_of(profile, asset)

    @dg.asset(
        key=key,
        group_name=section,
        description=asset.description,
        kinds=kinds,
        owners=OWNERS,
        metadata={"declared": {name: part.declared for name, part in asset.parts.items()}},
        tags={"stage": asset.stage} | ({"name": asset.name} if asset.name else {}),
        code_version=asset.code_version,
        deps=[dg.AssetKey(upstream.split("/")) for upstream in asset.upstream],
        partitions_def=partitions,
        # one run a partition: a run over several gives all of them one data version
        backfill_policy=dg.BackfillPolicy.multi_run(1) if partitions else None,
        # in a cluster a step's pod can be lost; what failed by itself says that it wants no retry
        retry_policy=LOST_POD if profile.compute.kubernetes else None,
        check_specs=[dg.AssetCheckSpec(check_name, asset=key)] if check else None,
    )
    def materialize(context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster takes no subscripted annotation
        group = context.partition_key if partitions else None
        try:
            done = pipeline.materialize(asset.key, group, log_progress(context))
        except UserError as error:
            # the run's page begins with a failure's own words; an exception's stand below its traceback
            raise dg.Failure(str(error), allow_retries=False) from None
        return dg.MaterializeResult(
            data_version=dg.DataVersion(done.data_version),
            metadata={**(metadata(pipeline, done) if metadata else {}), **common_metadata(done)},
            check_results=[check(pipeline, done)] if check else [],
        )

    return materialize


def common_metadata(done: MaterializeResult) -> dict[str, Any]:
    """Return the metadata of every materialization: counts, rates, skips and hashes."""
    computed = sum(done.heads[name].samples for name in done.computed)
    size = sum(head.size for head in done.heads.values())
    shown: dict[str, Any] = {
        "samples": done.samples,
        "skipped": sum(done.skip_reasons.values()),
        "bytes": size,
        "seconds": round(done.seconds, 2),
        "computed": ", ".join(done.computed) or "nothing: all of it was there",
        "fingerprints": {name: head.fingerprint for name, head in done.heads.items()},
        "data_version": done.data_version,
    }
    if computed:
        shown["samples_per_second"] = round(computed / max(done.seconds, 1e-3), 1)
    if done.skip_reasons:
        shown["skip_reasons"] = dg.MetadataValue.json(done.skip_reasons)
    facts = {name: head.facts for name, head in done.heads.items() if head.facts}
    if facts:
        shown["facts"] = dg.MetadataValue.json(facts)
    return shown


LOG_EVERY_SECONDS = 10.0


def log_progress(context: dg.AssetExecutionContext) -> Progress:
    """Log steps and rates, at most one line in ten seconds, and pass them to a listener in this process."""
    started = last = time.monotonic()

    def progress(step: Step) -> None:
        nonlocal last
        for watcher in WATCHERS:
            watcher(step)
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS:
            last = now
            rate = step.done / (now - started)
            left = (step.total - step.done) / rate if rate else float("inf")
            numbers = "".join(f", {name} {value:.4g}" for name, value in step.numbers.items())
            context.log.info(f"{step.done}/{step.total} {step.unit}, {rate:.1f}/s, {left:.0f} s left{numbers}")

    return progress


WATCHERS: list[Progress] = []
"""Listeners in this process beside the log: the terminal's bar."""
