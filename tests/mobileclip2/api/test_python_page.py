"""The examples of docs/python.md run in order, and its list of stable names equals the exported names."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mobileclip2

PAGE = (Path(__file__).parents[3] / "docs" / "python.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
STABLE = re.findall(r"^\| `([\w.]+)` \|", PAGE.partition("## Stable names")[2], re.M)


def test_the_examples_run_in_order(finished_template, tmp_path, monkeypatch, capsys):
    folder = Path(shutil.copytree(finished_template, tmp_path / "folder"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MOBILECLIP2_PROFILE", raising=False)
    text = (folder / "tiny.yaml").read_text()
    # the page calls its student and its evaluation set 'mine'
    text = text.replace("pupil", "mine").replace("evaluation/shapes", "evaluation/mine").replace("shapes", "mine")
    (folder / "mobileclip2.yaml").write_text(text)
    (folder / "evaluation" / "shapes").rename(folder / "evaluation" / "mine")
    pipeline = mobileclip2.Pipeline.open("mobileclip2.yaml")
    pipeline.run()
    values: dict[str, object] = {"pictures": write_pictures(folder / "photos")}
    for number, example in enumerate(EXAMPLES):
        exec(compile(example, f"docs/python.md, example {number + 1}", "exec"), values)
    printed = capsys.readouterr().out
    assert "%" in printed and "acc1" in printed and "torch.Size([3, 160, 160])" in printed
    before, after = values["student"], values["again"]
    assert isinstance(before, mobileclip2.ImageTextModel) and isinstance(after, mobileclip2.ImageTextModel)
    assert (before.embed_texts(["a cat"]) - after.embed_texts(["a cat"])).abs().max() < 1e-6


def write_pictures(folder: Path) -> list[Path]:
    from tests.tiny import CLASSES, draw

    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        draw(CLASSES[number], str(number)).save(path)
    return paths


def public(owner: object) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


def test_the_page_lists_all_exported_names():
    listed = {name.partition(".")[2] for name in STABLE if name.startswith("mobileclip2.")}
    assert listed == set(mobileclip2.__all__) - {"__version__"} == set(dir(mobileclip2)) - {"__version__"}
    for name in ("ImageTextModel", "Pipeline", "ReinforcedDataset"):
        members = {each.partition(".")[2] for each in STABLE if each.startswith(f"{name}.")}
        assert members == public(getattr(mobileclip2, name)) - {"__parameters__"}, name
    assert {each.partition(".")[2] for each in STABLE if each.startswith("losses.")} == set(mobileclip2.losses.__all__)
    assert len(STABLE) == len(set(STABLE))


def test_help_describes_every_name():
    import pydoc

    text = pydoc.plain(pydoc.render_doc(mobileclip2)) + pydoc.plain(pydoc.render_doc(mobileclip2.losses))
    for name in STABLE:
        assert name.rpartition(".")[2] in text, name
    for name in mobileclip2.__all__:
        if name != "__version__":
            assert getattr(mobileclip2, name).__doc__, name


def test_the_import_is_light():
    code = "import mobileclip2, sys; print([name for name in ('torch', 'open_clip', 'dagster') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_attribute_is_an_error():
    with pytest.raises(AttributeError, match="module 'mobileclip2' has no attribute 'lod'"):
        _ = mobileclip2.lod  # type: ignore[attr-defined]
