"""One module a stage, each with ``run(work)``: reads finished inputs, writes missing parts, closes manifests.

A stage writes shard by shard and skips shards that are already whole, so a killed run goes on where it stopped.
"""
