"""Which stored outputs some commit names, so that checking that commit out can make them current again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from mobileclip2.config.profile import Profile
from mobileclip2.errors import LedgerError
from mobileclip2.ledger.stages import ledger_folder


def committed_paths(profile: Profile) -> set[str]:
    """Paths in the store that the ledger names in any commit that a branch, a tag or the stash leads to.

    Raises:
        LedgerError: git cannot say.
    """
    if profile.ledger is None:
        return set()
    folder = ledger_folder(profile)
    if not any((place / ".git").exists() for place in (folder, *folder.parents)):
        return set()
    listed = _git(folder, "rev-list", "--objects", "--all", "--", "ledger")
    names = [line.split(b" ", 1) for line in listed.splitlines() if line.endswith(b".json")]
    paths: set[str] = set()
    for text in _blobs(folder, [name for name, _ in names]):
        content = json.loads(text)
        paths.update(output["path"] for output in content.get("outputs", []))
    return paths


def _blobs(folder: Path, names: list[bytes]) -> list[bytes]:
    answer = _git(folder, "cat-file", "--batch", given=b"".join(name + b"\n" for name in names))
    found, at = [], 0
    for _ in names:
        end = answer.index(b"\n", at)
        size = int(answer[at:end].split()[2])
        found.append(answer[end + 1 : end + 1 + size])
        at = end + 1 + size + 1
    return found


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    try:
        return subprocess.run(["git", *arguments], cwd=folder, input=given, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.decode().strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise LedgerError(
            f"{folder}: git cannot tell what the commits name ({said}); mend that, or leave 'ledger' out of the profile"
        ) from None
