"""Packages of the optional extras, such as ``pip install 'mobileclip2[export]'``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version

from mobileclip2.errors import MissingExtra

PROJECT_PACKAGES = {"mobileclip2", "assets", "pipelines"}


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Report which extra to install if an import of the block fails.

    Raises:
        MissingExtra: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in PROJECT_PACKAGES:
            raise
        raise MissingExtra(
            f"{error.name} is not installed; this needs the extra '{extra}': pip install 'mobileclip2[{extra}]'"
        ) from error


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
