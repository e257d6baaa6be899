"""From a raw shard to a reinforced shard, against the released generator's shape, and what that makes of a card's hours."""

from __future__ import annotations

from benchmarks._gpu.section import Section


def run(section: Section) -> None:
    section.found("whole", "to come")
