"""Teachers: pretrained weights that are pinned by hash, or a locked-tower model that is trained here."""

from functools import partial

from assets.materialize import define
from assets.metadata import training_metadata

teacher = partial(define, section="teachers", kinds={"pytorch"}, metadata=training_metadata)
