"""Names and paths of the ledger's files. Paths are relative to the ledger's folder."""

from __future__ import annotations

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import Profile

PIPELINE = "dvc.yaml"
CHECKPOINTS = "checkpoints"


def stage_name(key: AssetKey) -> str:
    """Return a stage name such as ``teacher_embeddings-lite0-image``. DVC allows no slash, and asset names have no dash."""
    return "-".join(key.path)


def root(profile: Profile) -> str:
    """Return the folder of a profile's ledger files in git."""
    return f"ledger/{profile.name}"


def asset_file(profile: Profile, key: str) -> str:
    """Return the file with fingerprints, data versions, counts and paths of an asset."""
    return f"{root(profile)}/{key}.json"


def params_file(profile: Profile) -> str:
    """Return the file with all declared fields of a profile by name."""
    return f"{root(profile)}/params.json"


def checkpoint_folder(student: str) -> str:
    """Return the folder with a student's open_clip checkpoint, which is in DVC's cache and not in git."""
    return f"{CHECKPOINTS}/{student}"
