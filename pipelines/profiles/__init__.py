"""The built-in profiles."""

from pathlib import Path

PROFILES = Path(__file__).parent


def profile_path(name: str) -> Path:
    """Return the file of a built-in profile's name, or the given path."""
    built_in = PROFILES / f"{name}.yaml"
    return built_in if built_in.exists() else Path(name)
