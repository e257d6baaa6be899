"""Materialize all stale assets of a profile in a process of its own: ``python -m tests.run PROFILE [--every-byte]``.

Stages that are divided by shards use as many workers as the profile sets. A server that has already imported torch
forks them. Training stays in one process, because sums over two processes are rounded differently.
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

from mobileclip2.config.profile import Profile, load
from mobileclip2.engine.pipeline import Executor, InProcessExecutor, Pipeline, TaskBatch
from mobileclip2.errors import UserError
from mobileclip2.executors import executor_of, local
from mobileclip2.executors.local import LocalExecutor

REFUSED = 3
"""exit status after a message for the user"""


class Shared(LocalExecutor):
    def run(self, work: TaskBatch) -> float:
        return InProcessExecutor().run(work) if work.asset.trains else super().run(work)


def compute(profile: Profile) -> Executor:
    if profile.compute.kubernetes is None:
        from tests.warm import start_fork_server  # it replaces open_clip's tokenizer, so only a run may import it

        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(["tests.faults", "tests.warm", "mobileclip2.stages.teacher_embeddings"])
        start_fork_server()
        local.POLL_SECONDS = 0.2
        return Shared(profile.compute.processes)
    from mobileclip2.executors import kubernetes

    kubernetes.POLL_SECONDS = 0.05
    in_cluster = executor_of(profile)
    assert isinstance(in_cluster, kubernetes.KubernetesExecutor)
    in_cluster.cluster.pause = 0.02
    return in_cluster


def main() -> int:
    profile = load(Path(sys.argv[1]))
    pipeline = Pipeline(profile, compute(profile))
    if "--every-byte" in sys.argv:
        pipeline.forget(every_byte=True)
    try:
        for asset, group in pipeline.stale():
            print(asset.key, group or "", flush=True)
            pipeline.materialize(asset.key, group)
    except UserError as error:
        print(f"mobileclip2: {error}", flush=True)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
