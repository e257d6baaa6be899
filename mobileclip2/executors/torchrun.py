"""Train one asset with torchrun.

    torchrun --nproc-per-node 8 -m mobileclip2.executors.torchrun my-profile.yaml student/s0

Every rank reads the same profile and computes its share of each batch. Rank 0 stores the result. The fingerprint does not depend
on the number of processes.
"""

from __future__ import annotations

import os
import sys

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.progress import Step


def main(profile: str, asset: str) -> int:
    """Train an asset. Return exit status 0, or 1 after a user error."""
    try:
        pipeline = Pipeline(load(profile))
        if asset not in pipeline.graph:
            raise UserError(f"{profile}: there is no asset '{asset}'; the profile has {', '.join(pipeline.graph)}")
        if int(os.environ.get("RANK", "0")) == 0:
            pipeline.materialize(asset, progress=_print_step)
        else:
            pipeline.take_part(asset)
    except UserError as error:
        print(f"mobileclip2: {error}", file=sys.stderr)
        return 1
    return 0


def _print_step(step: Step) -> None:
    print(step.to_line(), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
