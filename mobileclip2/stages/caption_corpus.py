"""A clean caption set is validated like any other shards."""

from mobileclip2.stages.raw_shards import run

__all__ = ["run"]
