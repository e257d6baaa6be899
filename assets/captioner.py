"""Clean caption corpora, and the captioners that are fine-tuned on them."""

from functools import partial

from assets.materialize import define
from assets.metadata import training_metadata

caption_corpus = partial(define, section="captioners", kinds={"webdataset"})
captioner = partial(define, section="captioners", kinds={"pytorch"}, metadata=training_metadata)
