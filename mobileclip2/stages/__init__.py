"""One module per stage. Its ``run(batch)`` reads finished inputs, computes the missing slices and commits the manifests.

If ``run`` is a :class:`~mobileclip2.engine.shard_stage.ShardStage`, a killed run continues at the first unfinished shard, and
several processes can share the shards. Trainings continue from their last checkpoint.
"""
