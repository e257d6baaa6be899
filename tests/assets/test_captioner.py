from __future__ import annotations

from assets.captioner import caption_corpus, captioner
from mobileclip2.engine.pipeline import Pipeline


def test_models_and_corpora_have_different_kinds(demo: Pipeline) -> None:
    (corpus,) = caption_corpus(demo.profile, demo.graph["caption_corpus/labels"]).specs
    (model,) = captioner(demo.profile, demo.graph["captioner/coca_labels"]).specs
    assert (corpus.kinds, model.kinds) == ({"webdataset"}, {"pytorch"})
    assert corpus.group_name == model.group_name == "captioners"
