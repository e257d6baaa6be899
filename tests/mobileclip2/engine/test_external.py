"""External inputs are keys of caches, so the pipeline looks up equal inputs only once."""

from mobileclip2.engine.external import Folder, GroupShards


def test_inputs_differ_by_what_they_name():
    assert len({GroupShards(), GroupShards("published"), Folder("a"), Folder("a", "*.tar"), Folder(("a", "b"))}) == 5
