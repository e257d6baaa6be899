"""The built-in profiles, and the profile that is used by default."""

import os
from pathlib import Path

from mobileclip2.errors import ProfileError
from mobileclip2.names import did_you_mean, is_url

PROFILES = Path(__file__).parent


def built_in() -> list[str]:
    """Return the names of the built-in profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def default_profile() -> str:
    """Return the profile of ``MOBILECLIP2_PROFILE``, or ``mobileclip2.yaml`` in the current folder, or the demo."""
    in_folder = "mobileclip2.yaml" if Path("mobileclip2.yaml").is_file() else "demo"
    return os.environ.get("MOBILECLIP2_PROFILE") or in_folder


def profile_path(name: str) -> Path:
    """Return the file of a built-in profile, or the path that was given.

    Raises:
        ProfileError: neither is there; names the built-in profile that is spelled alike, or all of them. A URL was given.
    """
    if is_url(name):
        raise ProfileError("a profile is a local file, and this is a URL; download it, and give its path")
    path = PROFILES / f"{name}.yaml"
    if path.exists():
        return path
    path = Path(name)
    near = did_you_mean(path.stem, built_in())
    if not path.exists() and (near or path.name == path.stem == name):
        raise ProfileError(
            f"there is no profile '{name}'{near or '.'} Built in are {', '.join(built_in())}; give any other by its file"
        )
    return path
