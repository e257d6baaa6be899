"""The identities of an asset, of its partitions and of its slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


class AssetKey(str):
    """Key of an asset: its stage, then at most two names, for example ``teacher_embeddings/lite0/image``.

    A key is a string, so that it is a key of dictionaries and is written to JSON as before. This class alone parses it.
    """

    path: tuple[str, ...]

    def __new__(cls, key: str) -> Self:
        """Parse a key, for example from a file or a command line."""
        self = super().__new__(cls, key)
        self.path = tuple(key.split("/"))
        return self

    @classmethod
    def of(cls, *path: str) -> Self:
        """Build a key from its components."""
        return cls("/".join(path))

    @classmethod
    def from_dotted(cls, dotted: str) -> Self:
        """Build a key from :attr:`dotted`."""
        return cls.of(*dotted.split("."))

    @property
    def dotted(self) -> str:
        """Return the key as one word, for example ``teacher.lite0``. No name contains a dot."""
        return ".".join(self.path)

    @property
    def stage(self) -> str:
        """Return the first component, for example ``teacher``."""
        return self.path[0]

    @property
    def name(self) -> str:
        """Return the second component, for example the name of a teacher; empty for shared assets."""
        return self.path[1] if len(self.path) > 1 else ""

    @property
    def kind(self) -> str:
        """Return what embeddings embed: ``image``, ``text`` or the name of a captioner; empty for other assets."""
        return self.path[2] if len(self.path) > 2 else ""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Parse the fields of models that are read from JSON."""
        from pydantic_core import core_schema  # the display of a command starts before pydantic is loaded

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


class Partition(NamedTuple):
    """An asset for one group, or the whole asset if it has no groups."""

    asset: AssetKey
    group: str | None

    def __str__(self) -> str:
        return f"{self.asset} [{self.group}]" if self.group else str(self.asset)


class SliceKey(NamedTuple):
    """One slice of an asset for one group."""

    asset: AssetKey
    part: str
    group: str | None

    def __str__(self) -> str:
        return f"{self.asset}:{self.part}" + (f"@{self.group}" if self.group else "")
