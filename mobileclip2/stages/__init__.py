"""One module a stage, each with ``run(work)``: reads the finished inputs, writes every missing part, closes its manifest.

A stage writes shard by shard and skips shards that are already whole, so a killed run goes on where it stopped.
"""
