"""External inputs are keys of caches, so that equal ones are looked up once."""

from mobileclip2.config.model import Model
from mobileclip2.engine.external import Folder, GroupShards, HubModel


def test_equal_models_of_the_hub_are_one_key():
    name = "hf-hub:apple/MobileCLIP-S1-OpenCLIP"
    assert {HubModel(Model(open_clip=name)): 1}[HubModel(Model(open_clip=name))] == 1
    assert HubModel(Model(open_clip=name)) != HubModel(Model(open_clip="hf-hub:apple/MobileCLIP-S2-OpenCLIP"))


def test_inputs_differ_by_what_they_name():
    assert len({GroupShards(), GroupShards("published"), Folder("a"), Folder("a", "*.tar"), Folder(("a", "b"))}) == 5
