"""One module for each stage, with ``run(work)``: read finished inputs, write missing parts, close manifests.

A stage writes shard by shard and skips the shards that are complete, so a killed run continues where it stopped. Several
processes can share the shards of a stage whose ``run`` is a :class:`~mobileclip2.engine.shard_stage.ByShard`.
"""
