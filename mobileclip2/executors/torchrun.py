"""Trains one asset in several processes.

    torchrun --nproc-per-node 8 -m mobileclip2.executors.torchrun my-profile.yaml student/s0

Every process reads the same profile and takes its share of each batch; the first one stores the result, under the fingerprint
that one process would have given it.
"""

from __future__ import annotations

import os
import sys

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.progress import Step


def main(profile: str, asset: str) -> int:
    """Exit status 0, or 1 with a message where the user can mend it."""
    try:
        pipeline = Pipeline(load(profile))
        if asset not in pipeline.graph:
            raise UserError(f"{profile}: there is no '{asset}'; it has {', '.join(pipeline.graph)}")
        if int(os.environ.get("RANK", "0")) == 0:
            pipeline.materialize(asset, progress=_line)
        else:
            pipeline.take_part(asset)
    except UserError as error:
        print(f"mobileclip2: {error}", file=sys.stderr)
        return 1
    return 0


def _line(step: Step) -> None:
    print(step.to_line(), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
