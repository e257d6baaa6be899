"""A loaded model is evaluated on folders."""

from __future__ import annotations

import shutil

import pytest

import mobileclip2


def test_metrics_by_set(folder, tiny_template, tmp_path):
    model = mobileclip2.load(folder, device="cpu")
    shapes = tiny_template / "evaluation" / "shapes"
    found = mobileclip2.evaluate(model, shapes, shapes, names=("one", "two"), batch=5)
    assert set(found) == {"one", "two"} and found["one"] == found["two"]
    assert 0 <= found["one"]["acc1"] <= 1
    assert set(mobileclip2.evaluate(model, shapes)) == {"shapes"}
    shutil.copytree(shapes, tmp_path / "broken")
    (tmp_path / "broken" / "classnames.txt").unlink()
    with pytest.raises(mobileclip2.UserError, match=r"classnames\.txt cannot be read"):
        mobileclip2.evaluate(model, tmp_path / "broken")
