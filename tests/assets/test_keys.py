import dagster as dg
import pytest

from assets.keys import dagster_key, library_key
from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import load
from mobileclip2.engine.graph import build_graph
from pipelines.definitions import definitions_of
from pipelines.profiles import PROFILES


@pytest.mark.parametrize("profile", ["demo", "tiny", "ablation", "dfndr-2b"])
def test_graph_page_labels_are_unique(profile):
    loaded = load(PROFILES / f"{profile}.yaml")
    keys = definitions_of(loaded).resolve_all_asset_keys()
    labels = [key.path[-1] for key in keys]  # labels that the graph page shows
    assert len(set(labels)) == len(labels)
    for asset in build_graph(loaded).values():
        assert dagster_key(asset.key) in keys and library_key(dagster_key(asset.key)) == asset.key


def test_names_that_differ_in_underscores_have_different_keys():
    keys = [AssetKey(key) for key in ("teacher_embeddings/a/b_c", "teacher_embeddings/a_b/c", "teacher/a_b_c")]
    assert len({dagster_key(key) for key in keys}) == len(keys)
    assert [library_key(dagster_key(key)) for key in keys] == keys


def test_a_prefix_is_dropped():
    assert library_key(dg.AssetKey(["tiny", "student.pupil"])) == AssetKey("student/pupil")
