"""The built-in profiles."""

from pathlib import Path

PROFILES = Path(__file__).parent


def profile_path(name: str) -> Path:
    """The file of a built-in profile's name, or the path that was given."""
    built_in = PROFILES / f"{name}.yaml"
    return built_in if built_in.exists() else Path(name)
