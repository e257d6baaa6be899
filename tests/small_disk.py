"""A small file system that only this process and its children see. It exists only if this user may mount one."""

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
    """Create ``folder``, if possible as a file system of its own. Yield whether it is one.

    Call it before the process starts threads, because a process with threads cannot create a user namespace.
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
    # mounts must not propagate out of this namespace
    return subprocess.run(["mount", "--make-rprivate", "/"], check=False).returncode == 0
