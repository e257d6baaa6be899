"""Feeds changed files to a reader, which must return or raise an error of the project.

Hypothesis draws the changes of a file of ``corpus/<reader>``, and shrinks those that fail. ``make test`` tries the inputs of one
fixed seed. ``make fuzz MINUTES=60`` shares the minutes among the readers and goes through the seeds 0, 1, 2, ...
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.errors import UserError

CORPUS = Path(__file__).parent / "corpus"
ERRORS = UserError, BadSample
EXAMPLES = 100
SECONDS = 20
"""limit of one input"""
GROWTH_KIB = 512 << 10
"""limit of the growth of this process's peak memory while a reader is fuzzed"""

INTERESTING = [
    b"",
    b"\0",
    b"\xff",
    b"-1",
    b"99999999999999999999",
    b"NaN",
    b"null",
    b"[" * 5000,
    b"{}",
    b"\n",
    b'"',
    b"\xed\xa0\x80",
]


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Draw a file of the corpus with some changes, or any bytes."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=600))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "byte", "cut", "delete", "insert", "copy", "number"])):
            case "flip" if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "byte" if start < len(data):
                data[start] = draw(st.integers(0, 255))
            case "cut":
                del data[start:]
            case "delete":
                del data[start : start + draw(st.integers(1, 64))]
            case "insert":
                data[start:start] = draw(st.sampled_from(INTERESTING) | st.binary(max_size=16))
            case "copy":
                end = start + draw(st.integers(1, 512))
                to = draw(st.integers(0, len(data)))
                data[to:to] = data[start:end]
            case "number":
                size = draw(st.sampled_from([1, 2, 4, 8]))
                value = draw(st.sampled_from([0, 1, -1, 1 << 31, 1 << 62, 255]))
                data[start : start + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(data)


def fuzz(reader: str, read: Callable[[bytes], object]) -> None:
    """Read every file of the corpus unchanged, then changed ones.

    ``FUZZ_SECONDS`` sets the time for this reader. Without it, one seed is tried.
    """
    files = sorted((CORPUS / reader).iterdir())
    assert files, f"the corpus of {reader} is empty"
    seeds = [file.read_bytes() for file in files]
    for data in seeds:
        _try(read, data)
    before = _peak_kib()
    deadline = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", 0))
    tried = 0
    for seed in itertools.count():

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )
        @hypothesis.given(changed(seeds))
        def run(data: bytes) -> None:
            nonlocal tried
            tried += 1
            _try(read, data)

        print(f"{reader}: seed {seed}")
        run()
        if time.monotonic() > deadline:
            break
    growth = _peak_kib() - before
    print(f"{reader}: {tried} inputs, {growth / 1024:.0f} MiB")
    assert growth < GROWTH_KIB, f"{reader} needs {growth / 1024:.0f} MiB for small files"


def _try(read: Callable[[bytes], object], data: bytes) -> None:
    with _limited():
        try:
            read(data)
        except ERRORS as error:
            assert str(error).strip()


@contextmanager
def _limited() -> Iterator[None]:
    def end(*_: object) -> None:
        raise AssertionError(f"not finished after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
