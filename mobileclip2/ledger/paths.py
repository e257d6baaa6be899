"""What the ledger calls an asset and where it keeps what of it; paths are relative to the ledger's folder."""

from __future__ import annotations

from mobileclip2.config.profile import Profile

PIPELINE = "dvc.yaml"
METRICS = "metrics"
CURVES = "curves"
CHECKPOINTS = "checkpoints"


def stage_name(key: str) -> str:
    """``teacher_embeddings-lite0-image``: DVC allows no slash, and no asset's name holds a dash."""
    return key.replace("/", "-")


def root(profile: Profile) -> str:
    """Return the folder of everything that the ledger keeps in git for a profile."""
    return f"ledger/{profile.name}"


def asset_file(profile: Profile, key: str) -> str:
    """Return the file with fingerprints, data versions, counts and paths of an asset."""
    return f"{root(profile)}/{key}.json"


def params_file(profile: Profile) -> str:
    """Every declared field of a profile, by name."""
    return f"{root(profile)}/params.json"


def metrics_file(profile: Profile, model: str) -> str:
    """Return the file with the metrics of a model."""
    return f"{root(profile)}/{METRICS}/{model}.json"


def loss_file(profile: Profile, key: str) -> str:
    """Return the file with the loss curve of a training."""
    return f"{root(profile)}/{CURVES}/{key}.loss.csv"


def accuracy_file(profile: Profile, key: str) -> str:
    """Return the file with the accuracies that a training measured."""
    return f"{root(profile)}/{CURVES}/{key}.accuracy.csv"


def checkpoint_folder(student: str) -> str:
    """Return the folder with a student as plain open_clip reads it. It is in DVC's cache and not in git."""
    return f"{CHECKPOINTS}/{student}"
