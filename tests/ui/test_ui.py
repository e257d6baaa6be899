"""Use the web interface that ``make ui`` starts as users do, in headless Chromium."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from safetensors.torch import load_file, save_file

from assets.code_version import code_versions
from assets.inputs import GROUP, observed
from assets.keys import dagster_key
from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import load
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.store.storage import file_sha256
from pipelines.backfill import BACKFILL_TAG, PARTITION_TAGS, assets_by_step, wait_for_backfill
from pipelines.definitions import definitions_of
from pipelines.graphql import Server
from pipelines.remote import REFRESH_OP
from tests.pipelines.small import edited, without_captioners
from tests.pipelines.stale import unsynced_by
from tests.ui.page import Page

pytestmark = pytest.mark.ui

BACKFILL_SECONDS = 600
"""The daemon checks a backfill every 3 seconds (see ``fast_daemon``), and starts one run at a time."""

GROUPS = {
    "raw_shards": "raw_shards",
    "augmentations": "augmentations",
    "caption_corpus": "captioners",
    "captioner": "captioners",
    "synthetic_captions": "synthetic_captions",
    "teacher": "teachers",
    "teacher_embeddings": "embeddings_{name}",
    "reinforced_dataset": "reinforced_dataset",
    "student": "students",
    "evaluation": "evaluation",
}
"""Maps a stage to the group of the graph page that shows it."""


def group_of(asset: Asset) -> str:
    return GROUPS[asset.stage].format(name=asset.name)


def button(text: str) -> str:
    return f"//button[normalize-space()='{text}']"


def runs(page: Page) -> set[str]:
    """Return the ids of all runs."""
    answer = Server(page.url).ask("query Runs { runsOrError { ... on Runs { results { runId } } } }")
    return {run["runId"] for run in answer["runsOrError"]["results"]}


def backfills(page: Page) -> set[str]:
    """Return the ids of all backfills."""
    query = "query Backfills { partitionBackfillsOrError { ... on PartitionBackfills { results { id } } } }"
    return {each["id"] for each in Server(page.url).ask(query)["partitionBackfillsOrError"]["results"]}


def refresh(page: Page, *assets: str) -> str:
    """Launch the job ``refresh`` from its launchpad, and wait until its backfill has succeeded."""
    before = backfills(page)
    page.open("/jobs")
    page.see("refresh", "evaluate")
    page.click("//a[normalize-space()='refresh']")
    page.click("//a[normalize-space()='Launchpad']")
    # The browser keeps the text of an earlier launch in the editor.
    page.write_code(json.dumps({"ops": {REFRESH_OP: {"config": {"assets": assets}}}}))
    page.click("//button[normalize-space()='Launch Run' and not(@disabled)]")
    (backfill,) = page.until(lambda: backfills(page) - before, "a submitted backfill")
    wait_for_backfill(Server(page.url), backfill, time.monotonic() + BACKFILL_SECONDS)
    return backfill


def targets(page: Page, backfill: str) -> set[tuple[str, str | None]]:
    """Return the assets and groups of the runs of a backfill."""
    query = """
      query Runs($filter: RunsFilter!) {
        runsOrError(filter: $filter) { ... on Runs { results { assetSelection { path } tags { key value } } } }
      }
    """
    of_backfill = {"tags": [{"key": BACKFILL_TAG, "value": backfill}]}
    found: set[tuple[str, str | None]] = set()
    for run in Server(page.url).ask(query, filter=of_backfill)["runsOrError"]["results"]:
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        group = next((tags[tag] for tag in PARTITION_TAGS if tag in tags), None)
        found |= {(str(asset), group) for asset in assets_by_step(run).values()}
    return found


def stale_status(page: Page, asset: str) -> str:
    query = (
        "query Status($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { staleStatus } } }"
    )
    answer = Server(page.url).ask(query, key={"path": dagster_key(AssetKey(asset)).path})
    return str(answer["assetNodeOrError"]["staleStatus"])


def materialize(page: Page, asset: str, group: str | None = None) -> None:
    """Click 'Materialize' on an asset's page, and wait until the run has succeeded."""
    before = runs(page)
    page.open(f"/assets/{dagster_key(AssetKey(asset)).path[-1]}")
    if group is None:
        page.see("Latest materialization")  # The button has no effect before the page has loaded the asset.
        page.click(button("Materialize"))
    else:
        page.click(button("Materialize…"))
        page.click("//*[text()='Select a partition or create one']")
        page.click(f"//*[@role='menuitem']//*[@title='{group}']")
        page.see("1 partition")
        page.click(button("Launch 1 run"))
    # The notice of a launched run can disappear before a slow page is read.
    (run,) = page.until(lambda: runs(page) - before, "a launched run")
    page.open(f"/runs/{run}")
    page.see("Success", but_not="Failure")


def see_metadata(page: Page, **expected: str) -> dict[str, str]:
    """Wait for a metadata table that contains the expected entries, and return all its entries."""

    def shown() -> dict[str, str]:
        rows = page.driver.execute_script(
            "return [...document.querySelectorAll('tr')].map(row => [...row.cells].map(cell => cell.innerText.trim()))"
        )
        found = {cells[0]: [text for text in cells if text][-1] for cells in rows if any(cells)}
        return found if expected.items() <= found.items() else {}

    return page.until(shown, f"metadata {expected}")


def sidebar(page: Page) -> list[tuple[str, str]]:
    """Open all groups of the graph page, and return the (group, label) of every asset that it lists."""
    collapsed = "//*[@data-index]//*[@aria-label='arrow_drop_down'][contains(@style, '-90deg')]"
    while page.all(collapsed):
        before = len(page.all(collapsed))
        page.click(collapsed)
        page.until(lambda before=before: len(page.all(collapsed)) < before, "the group to open")
    rows = page.driver.execute_script(
        "return [...document.querySelectorAll('[data-index]')].sort((a, b) => a.dataset.index - b.dataset.index)"
        ".map(row => [!!row.querySelector('[aria-label=asset_group]'), row.querySelector('[title]').title])"
    )
    group, found = "", []
    for is_group, label in rows:
        if is_group:
            group = label
        else:
            found.append((group, label))
    return found


def test_the_graph_page_shows_every_asset_by_stage(page: Page, pipeline: Pipeline) -> None:
    expected = {(group_of(asset), dagster_key(asset.key).path[-1]) for asset in pipeline.graph.values()}
    assert len({label for _, label in expected}) == len(pipeline.graph), "two boxes of the graph page look the same"
    expected |= {(GROUP, asset.key.path[-1]) for asset in observed(pipeline.profile, pipeline.graph)}
    page.open("/asset-groups")
    page.see(*{group for group, _ in expected})
    assert Counter(sidebar(page)) == Counter(expected)


def test_an_asset_page_describes_the_asset(page: Page, pipeline: Pipeline) -> None:
    asset = pipeline.graph["teacher_embeddings/wide/image"]
    key = dagster_key(asset.key)
    node = definitions_of(pipeline.profile).resolve_asset_graph().get(key)
    page.open(f"/assets/{key.path[-1]}")
    page.click("//*[text()='Compute details']")
    page.see(
        asset.description,
        "Owners\nmobileclip2",
        f"Code version\n{code_versions(pipeline.graph)[asset.key]}",
        '"view": 1',
    )
    kinds = page.text.partition("\nKinds\n")[2].partition("\nStorage\n")[0]
    assert set(kinds.lower().split()) == node.kinds


def test_one_group_of_an_asset_is_materialized_from_its_page(page: Page, pipeline: Pipeline) -> None:
    materialize(page, "raw_shards", "g00")
    pipeline.forget()
    (read,) = pipeline.read("raw_shards", "g00")
    page.open("/assets/raw_shards?view=partitions&partition=g00")
    shown = see_metadata(page, samples="11", skipped="1", data_version=read.manifest.data_version)
    assert json.loads(shown["skip_reasons"]) == {"truncated-image": 1}
    assert float(shown["samples_per_second"]) > 0
    assert page.all("//tr[td[.='sample_sheet_preview']]//img[starts-with(@src, 'data:image/webp;base64,')]")
    page.click("//tr[td[.='sample_sheet']]//*[contains(text(), 'Show Markdown')]")
    width = page.until(
        lambda: page.driver.execute_script(
            "return document.querySelector('[role=dialog] img[src^=\"data:image/png;base64,\"]')?.naturalWidth"
        ),
        "the sample sheet",
    )
    assert width > 100


def test_no_page_of_an_asset_shows_a_wrong_date(page: Page) -> None:
    materialize(page, "raw_shards", "g00")
    for view, shown in (
        ("overview", "Latest check results"),
        ("events", "materialized in run"),
        ("checks", "Latest execution"),
        ("lineage", "raw_shards"),
    ):
        page.open(f"/assets/raw_shards?view={view}")
        page.see(shown)
        # Dagster's page shows 'Invalid Date' for a moment, until it has loaded a run that has just ended.
        page.until(lambda: "Invalid Date" not in page.text, "every date to be valid")


def test_an_asset_without_groups_is_materialized_from_its_page(page: Page, pipeline: Pipeline) -> None:
    materialize(page, "caption_corpus/clean")
    pipeline.forget()
    (read,) = pipeline.read("caption_corpus/clean")
    page.open("/assets/caption_corpus.clean")
    see_metadata(page, samples="12", skipped="0", data_version=read.manifest.data_version)


def test_the_job_refresh_is_launched_from_its_launchpad(page: Page, pipeline: Pipeline) -> None:
    """Refresh only cheap assets. The test deletes the views, so that at least one asset is missing."""
    pipeline.storage.delete_folder("augmentations")
    refresh(page, "augmentations", "caption_corpus/clean")
    pipeline.forget()
    for key in ("raw_shards", "augmentations", "caption_corpus/clean"):
        asset = pipeline.graph[key]
        assert [pipeline.missing(asset, group) for group in pipeline.groups(asset)] == [[]] * len(
            pipeline.groups(asset)
        )


def test_a_changed_input_makes_its_asset_unsynced_until_it_is_materialized(page: Page, profile: Path) -> None:
    materialize(page, "caption_corpus/clean")
    page.open("/assets/caption_corpus.clean")
    page.see("Latest materialization", but_not="Unsynced")
    corpus = profile.parent / "corpus"
    shutil.copy(corpus / "00000.tar", corpus / "00001.tar")
    page.until(lambda: stale_status(page, "caption_corpus/clean") == "STALE", "an observation by the sensor")
    page.open("/assets/caption_corpus.clean")
    page.see("Unsynced")
    materialize(page, "caption_corpus/clean")
    assert stale_status(page, "caption_corpus/clean") == "FRESH"


def test_pages_send_no_requests_to_other_hosts(page: Page) -> None:
    page.open("/")
    page.see("Overview")
    assert page.hosts() == {"127.0.0.1"}


def test_the_server_is_not_reachable_from_elsewhere(address: str) -> None:
    port = urlsplit(address).port
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    listening = {
        place for _, place, _, state, *_ in rows if state == "0A" and int(place.rpartition(":")[2], 16) == port
    }
    assert listening == {f"0100007F:{port:04X}"}


def test_a_changed_teacher_is_unsynced_and_one_click_computes_the_plan(page: Page, profile: Path) -> None:
    def out_of_sync() -> set[tuple[str, str | None]]:
        return unsynced_by(Server(page.url).ask)

    def reload() -> None:
        page.open("/locations")
        page.click(button("Reload all"))
        page.see("Definitions reloaded")

    done = edited(profile, without_captioners)
    for asset, group in done.stale():
        done.materialize(asset.key, group)
    reload()
    page.until(lambda: not out_of_sync(), "the sensor to report what is stored")

    weights = profile.parent / "weights"
    state = {name: 2 * tensor for name, tensor in load_file(weights / "wide.safetensors").items()}
    save_file(state, weights / "other.safetensors")
    pinned = {"path": "weights/other.safetensors", "sha256": file_sha256(weights / "other.safetensors")}
    changed = edited(profile, lambda values: values["teachers"][0]["model"].update(weights=pinned))
    expected = set(plan(changed).pairs)
    assert {"teacher/wide", "teacher_embeddings/wide/image", "student/pupil"} <= {asset for asset, _ in expected}
    reload()
    page.until(lambda: out_of_sync() == expected, "the plan to be unsynced")
    page.open("/assets/teacher.wide")
    page.see("Unsynced")
    page.picture("unsynced")

    # Dagster's own button "Materialize unsynced" does not list partitioned assets.
    backfill = refresh(page)
    assert targets(page, backfill) == expected
    assert plan(Pipeline(load(profile))).items == ()
    page.until(lambda: not out_of_sync(), "everything to be in sync")
    page.open("/assets/teacher.wide")
    page.see("Latest materialization", but_not="Unsynced")
