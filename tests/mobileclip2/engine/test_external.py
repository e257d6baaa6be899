"""External inputs are keys of caches, so the pipeline looks up equal inputs only once."""

from mobileclip2.engine.external import Folder, GroupShards


def test_external_inputs_that_differ_in_any_field_are_unequal():
    assert len({GroupShards(), GroupShards("published"), Folder("a"), Folder("a", "*.tar"), Folder(("a", "b"))}) == 5
