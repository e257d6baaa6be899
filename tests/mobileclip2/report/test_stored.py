from pathlib import Path

from mobileclip2.report.stored import store_report


def test_the_report_is_written_beside_the_outputs(materialized):
    pipeline = materialized("evaluation/wide")
    written = Path(store_report(pipeline))
    assert written == Path(pipeline.storage.url) / "reports" / "tiny.html"
    assert "wide" in written.read_text() and "<html" in written.read_text()
