"""The GPU tests without pytest: bf16, pinned copies, random numbers, exact resume, NCCL in one process, fp32 captions."""

from __future__ import annotations

import os

from benchmarks._gpu.section import Section


def run(section: Section) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at the first matrix product
    from tests.on_gpu import CHECKS

    passed = 0
    for name, check in CHECKS.items():
        with section.attempt(name):
            section.require(2)
            section.found(name, check(section.device))
            passed += 1
    section.value(f"checks that hold, of {len(CHECKS)}", passed, target=len(CHECKS))
