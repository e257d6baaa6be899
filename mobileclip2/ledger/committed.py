"""The stored outputs that git commits refer to. gc keeps them, so that these commits can be checked out without recomputation."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from mobileclip2.config.profile import Profile
from mobileclip2.errors import LedgerError
from mobileclip2.ledger.stages import ledger_folder


def committed_paths(profile: Profile) -> set[str]:
    """Return the store paths in the ledger of every commit that a branch, a tag or the stash can reach.

    Raises:
        LedgerError: git fails.
    """
    if profile.ledger is None:
        return set()
    folder = ledger_folder(profile)
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return set()
    listed = _git(folder, "rev-list", "--objects", "--all", "--", "ledger")
    names = [line.split(b" ", 1) for line in listed.splitlines() if line.endswith(b".json")]
    paths: set[str] = set()
    for text, (name, path) in zip(_blobs(folder, [name for name, _ in names]), names, strict=True):
        try:
            paths.update(str(output["path"]) for output in json.loads(text).get("outputs", []))
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise LedgerError(
                f"{folder}: the committed file {path.decode(errors='replace')} (blob {name.decode()}) is not a ledger file "
                f"({error}), so what its commit needs is not known; remove 'ledger' from the profile to delete regardless"
            ) from None
    return paths


def _blobs(folder: Path, names: list[bytes]) -> list[bytes]:
    stream = _git(folder, "cat-file", "--batch", stdin=b"".join(name + b"\n" for name in names))
    contents, offset = [], 0
    for _ in names:
        end = stream.index(b"\n", offset)
        size = int(stream[offset:end].split()[2])
        contents.append(stream[end + 1 : end + 1 + size])
        offset = end + 1 + size + 1
    return contents


def _git(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    try:
        return subprocess.run(["git", *arguments], cwd=folder, input=stdin, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        cause = error.stderr.decode().strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise LedgerError(
            f"{folder}: git cannot list the outputs of the commits ({cause}); fix that, or remove 'ledger' from the profile"
        ) from None
