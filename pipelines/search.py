"""``mobileclip2 search``: rank the pictures of a folder by a text or a picture, and show them on a page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mobileclip2.api.load import load
from mobileclip2.api.search import index, search
from mobileclip2.progress import counted, doing
from mobileclip2.report.search import write_search
from pipelines.tables import new_table, show


def search_pictures(model: str, profile: Path, queries: Sequence[str], folder: Path, page: Path, top: int) -> None:
    """Rank the pictures for each query, print the best ones, and write a page that shows them.

    ``profile`` is that of ``student/x`` and ``teacher/x``.

    Raises:
        UserError: the model or the folder cannot be read.
    """
    with doing(f"loading {model}"):
        loaded = load(model, profile=profile)
    with doing(f"embedding the pictures of {folder}"):
        indexed = index(loaded, folder, lambda done, total: counted(done, total, "pictures"))
    results = [(query, search(loaded, _query(query), indexed, top)) for query in queries]
    for query, found in results:
        title = f'"{query}"'
        table = new_table("similarity", "picture", right=("similarity",), title=title, title_justify="left", box=None)
        for ranked in found:
            table.add_row(f"{ranked.score:.3f}", str(ranked.path))
        show(table)
    for message in indexed.unreadable:
        show(f"left out: {message}")
    write_search(results, loaded.name, folder, len(indexed.paths), page)
    show(f"page: {page}")


def _query(text: str) -> str | Path:
    """Return a path if the query is a file, so that pictures are found that look like it."""
    with suppress(OSError):  # a text can be too long for a path
        if Path(text).is_file():
            return Path(text)
    return text
