"""Validate the shards of a caption corpus, with the same code as the source shards."""

from mobileclip2.stages.raw_shards import run

__all__ = ["run"]
