"""Published reinforced shards, which students learn from."""

from functools import partial

from assets.materialize import define

reinforced_shards = partial(define, section="reinforced_dataset", kinds={"webdataset", "parquet"})
