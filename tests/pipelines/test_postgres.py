"""Store Dagster's own state in PostgreSQL, as on a cluster."""

from __future__ import annotations

import dagster as dg
import psycopg2
import pytest

from assets.keys import dagster_key
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.run import refresh
from tests.pipelines.test_run import Observer
from tests.postgres import binaries, server

pytestmark = [pytest.mark.slow, pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")]


def test_postgres_records_a_refresh_and_a_second_refresh_finds_all_current(small, tmp_path):
    with (
        server() as database,
        dg.DagsterInstance.local_temp(
            str(tmp_path), overrides={"storage": {"postgres": {"postgres_db": database}}}
        ) as dagster,
    ):
        pipeline = Pipeline(load(small))
        pairs = [(asset.key, group) for asset, group in pipeline.stale()]
        assert refresh(pipeline, dagster, None, Observer()) == len(pairs) > 10
        assert refresh(Pipeline(load(small)), dagster, None, Observer()) == 0
        assert {run.status for run in dagster.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
        for key, group in pairs:
            wanted = dg.AssetRecordsFilter(dagster_key(pipeline.graph[key].key), [group] if group else None)
            (record,) = dagster.fetch_materializations(wanted, limit=2).records
            reads = pipeline.read(key, group)
            if len(reads) == 1:
                version = record.asset_materialization.tags["dagster/data_version"]
                assert version == reads[0].manifest.data_version
        with (
            psycopg2.connect(
                host=database["hostname"],
                port=database["port"],
                user=database["username"],
                password=database["password"],
                dbname=database["db_name"],
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("select count(*) from runs")
            assert cursor.fetchone() == (len(pairs),)
    assert not list(tmp_path.rglob("*.db")), "nothing was written to SQLite beside it"
