from __future__ import annotations

from assets.captioner import captioners
from assets.keys import library_key
from mobileclip2.engine.pipeline import Pipeline


def test_corpora_come_before_the_captioners_that_are_trained_on_them(demo: Pipeline) -> None:
    keys = [library_key(asset.key) for asset in captioners(demo.profile, demo.graph)]
    assert keys == [
        *(f"caption_corpus/{corpus.name}" for corpus in demo.profile.caption_corpora),
        *(f"captioner/{captioner.name}" for captioner in demo.profile.captioners),
    ]
    assert len(keys) > 2


def test_models_and_data_are_told_apart_by_their_kinds(demo: Pipeline) -> None:
    kinds = {
        library_key(spec.key).stage: spec.kinds
        for asset in captioners(demo.profile, demo.graph)
        for spec in asset.specs
    }
    assert kinds == {"caption_corpus": {"webdataset"}, "captioner": {"pytorch"}}
