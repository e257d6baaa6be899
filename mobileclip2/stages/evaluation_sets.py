"""Open the evaluation sets of a profile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mobileclip2.config.profile import Profile
from mobileclip2.engine.external import Folder
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import local_folder
from mobileclip2.evaluation.sets import EvaluationSet


@contextmanager
def planned_sets(batch: TaskBatch, task: Task, role: str, names: Iterable[str]) -> Iterator[list[EvaluationSet]]:
    """Open evaluation sets that are inputs ``<role>/<name>`` of a task. Compare them with the plan, and again after the block.

    Raises:
        ShardError: a file of a set was added, removed or changed.
    """
    with ExitStack() as stack:
        sets = []
        for name in names:
            source = task.slice.externals[f"{role}/{name}"]
            assert isinstance(source, Folder)
            folder = stack.enter_context(batch.inventory.unchanged(source, task.versions[f"{role}/{name}"]))
            sets.append(EvaluationSet(name, folder))
        yield sets


def open_set(profile: Profile, name: str) -> EvaluationSet:
    """Open an evaluation set of the profile as local files."""
    source = next(source for source in profile.evaluation if source.name == name)
    return EvaluationSet(name, Path(local_folder(profile.locate(source.url))))
