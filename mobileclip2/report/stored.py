"""The pipeline's report in the store, beside the outputs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.report.gather import gather
from mobileclip2.report.page import write_page
from mobileclip2.report.pipeline import render_pipeline


def store_report(pipeline: Pipeline) -> str:
    """Write the report of everything that is stored, and return its path or URL."""
    key = f"reports/{pipeline.profile.name}.html"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_page(render_pipeline(gather(pipeline)), page)
        pipeline.storage.put(key, page)
    return f"{pipeline.storage.url}/{key}"
