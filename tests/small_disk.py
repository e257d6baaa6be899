"""A file system that is soon full, where this user may mount one: seen by this process and those that it starts alone."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Makes ``folder``, as a file system of its own where that can be had; says whether it is one.

    Call it before there are threads: a process that has some gets no name space.
    """
    folder.mkdir()
    if (
        not _own_mounts()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]).returncode
    ):
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _own_mounts() -> bool:
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)):
        return False
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    # what is mounted here stays here
    return subprocess.run(["mount", "--make-rprivate", "/"], check=False).returncode == 0
