"""Exports of a small FastViT, loaded by the libraries that read them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mobileclip2.config.model import Model
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.export import as_onnx
from mobileclip2.export import write as writing
from mobileclip2.export.model import trained
from mobileclip2.export.parity import LEAST, Inputs
from mobileclip2.export.write import Format, write
from mobileclip2.models.build import build
from mobileclip2.stages.export import export
from mobileclip2.stages.load_model import load_image_text
from pipelines.cli import main
from tests.mobileclip2.models.test_reparameterize import _trained_statistics
from tests.tiny import CLASSES, draw, encode

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
STUDENT = "student/plain"


@pytest.fixture(scope="module")
def profile(tiny_template, tmp_path_factory):
    """Return the tiny profile with a trained FastViT as its plain student."""
    torch.set_num_threads(1)
    path = Path(shutil.copytree(tiny_template, tmp_path_factory.mktemp("export") / "tiny")) / "tiny.yaml"
    values = yaml.safe_load(path.read_text())
    plain = next(student for student in values["students"] if student["name"] == "plain")
    text = plain["model"]["config"]["text_cfg"]
    vision = {"timm_model_name": "fastvit_nano", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    plain["model"] = {"config": {"embed_dim": 16, "custom_text": True, "vision_cfg": vision, "text_cfg": text}}
    plain["license"] = "CC0-1.0"
    values["sources"][0]["license"] = "made by the tests"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    pipeline = Pipeline(load(path))
    for group in pipeline.profile.group_names:
        pipeline.materialize("raw_shards", group)
    pipeline.materialize(STUDENT)
    return path


@pytest.fixture
def pipeline(profile):
    return Pipeline(load(profile))


@pytest.fixture(scope="module")
def exported(profile, tmp_path_factory):
    """Return the exports of all formats by name."""
    folder, pipeline = tmp_path_factory.mktemp("exports"), Pipeline(load(profile))
    return {kind: export(pipeline, STUDENT, folder / kind, kind) for kind in get_args(Format)}


def picture() -> Image.Image:
    return draw("red square", "export").resize((70, 50))


def expected(pipeline, texts: list[str]) -> torch.Tensor:
    """Return the cosines of the trained model."""
    (stored,) = pipeline.read(STUDENT)
    model = trained(load_image_text(stored, pipeline.inventory))
    with torch.inference_mode():
        return model.image(model.pixels(picture())[None])[0] @ model.text(model.tokens(texts)).T


def snippet(folder: Path) -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.S | re.M)
    return code


def printed_numbers(python: Path | str, code: str, folder: Path) -> list[float]:
    done = subprocess.run(
        [python, "-W", "ignore", "-c", code],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [float(number) for number in re.findall(r"-?\d\.\d+", done.stdout.splitlines()[-1])]


@pytest.mark.parametrize("kind", get_args(Format))
def test_parity_is_measured_on_all_images_and_texts(exported, kind):
    image, text = exported[kind].parity
    assert (image.tower, image.count, image.same_input) == ("image", len(CLASSES), len(CLASSES))
    assert (text.tower, text.count, text.same_input) == ("text", 2 * len(CLASSES), 2 * len(CLASSES))
    assert min(image.lowest, text.lowest) >= LEAST


@pytest.mark.parametrize("kind", get_args(Format))
def test_the_card_describes_the_export(exported, profile, kind):
    card = (exported[kind].folder / "README.md").read_text()
    for said in (
        "| license | CC0-1.0 |",
        "made by the tests",
        "raw_shards 23",
        "Not evaluated.",
        "student/plain",
        "4 steps of 8",
    ):
        assert said in card
    for file in filter(Path.is_file, exported[kind].folder.rglob("*")):
        content = file.read_bytes()
        assert not [place for place in (profile.parent, ROOT, sys.prefix) if str(place).encode() in content], file


def test_the_card_contains_metrics(pipeline, tmp_path):
    pipeline.materialize("evaluation/plain", "shapes")
    export(pipeline, STUDENT, tmp_path / "out", "openclip")
    assert re.search(r"^\| shapes \| acc1 \| [01]\.\d{4} \|$", (tmp_path / "out" / "README.md").read_text(), re.M)


def test_the_card_describes_students_without_training(profile, tmp_path):
    values = yaml.safe_load(profile.read_text())
    values["students"] += [
        {"name": "given", "model": values["teachers"][0]["model"]},
        {"name": "tuned", "base": "given", "data": "raw", "train": values["students"][1]["train"]},
        {
            "name": "middle",
            "between": {"to": "tuned", "weights": [0, 0.5, 1], "pick": {"best": "shapes", "of": ["shapes"]}},
        },
    ]
    other = profile.with_name("between.yaml")
    other.write_text(yaml.safe_dump(values, sort_keys=False))
    pipeline = Pipeline(load(other))
    for name, said in (
        ("given", ("weights wide.safetensors", "given weights, not trained", "Pairs that passed validation: none.")),
        ("tuned", ("as student given", "4 steps of 8 on raw data, from student given", "| source made |")),
        ("middle", ("as student tuned", "weights between those that tuned started from")),
    ):
        pipeline.materialize(f"student/{name}")
        export(pipeline, f"student/{name}", tmp_path / name, "openclip")
        card = (tmp_path / name / "README.md").read_text()
        assert [text for text in said if text not in card] == []


@pytest.mark.parametrize("kind", ["openclip", "safetensors"])
def test_the_snippet_runs_in_plain_open_clip(exported, pipeline, kind, tmp_path):
    folder = Path(shutil.copytree(exported[kind].folder, tmp_path / kind))
    picture().save(folder / "picture.png")
    code = snippet(folder) + "\nimport sys\nassert 'mobileclip2' not in sys.modules\n"
    cosines = printed_numbers(sys.executable, code, folder)
    assert cosines == pytest.approx(expected(pipeline, ["a cat", "a dog"]).tolist(), abs=1e-3)


def test_core_ml_packages_have_the_inputs_and_outputs_of_the_card(exported):
    from coremltools.models import MLModel

    for name, given in (("image", ("pixels", [1, 3, 32, 32])), ("text", ("tokens", [1, 12]))):
        described = (
            MLModel(str(exported["coreml"].folder / f"{name}.mlpackage"), skip_model_load=True).get_spec().description
        )
        assert [(each.name, list(each.type.multiArrayType.shape)) for each in described.input] == [given]
        assert [each.name for each in described.output] == ["features"]
    assert "have not been run" in (exported["coreml"].folder / "README.md").read_text()


def test_the_torchscript_example_runs(exported, pipeline, tmp_path):
    folder = Path(shutil.copytree(exported["torchscript"].folder, tmp_path / "out"))
    np.save(folder / "picture.npy", np.asarray(picture()))
    cosines = printed_numbers(sys.executable, snippet(folder), folder)
    assert cosines == pytest.approx(expected(pipeline, ["a cat", "a dog"]).tolist(), abs=1e-5)


@pytest.mark.parametrize("int8", [False, True])
def test_onnx_needs_only_onnxruntime_and_numpy(exported, pipeline, tmp_path, int8):
    uv, python = Path(sys.prefix) / "bin" / "uv", tmp_path / "fresh" / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "fresh"], check=True)
    locked = ["--constraint", ROOT / "requirements.lock", "onnxruntime", "numpy"]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *locked], check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0
    if int8:
        folder = export(pipeline, STUDENT, tmp_path / "out", "onnx", int8=True).folder
    else:
        folder = Path(shutil.copytree(exported["onnx"].folder, tmp_path / "out"))
    np.save(folder / "picture.npy", np.asarray(picture()))
    cosines = printed_numbers(python, snippet(folder), folder)
    assert cosines == pytest.approx(expected(pipeline, ["a cat", "a dog"]).tolist(), abs=0.05 if int8 else 1e-5)
    command = [python, "example.py", "picture.npy", "a cat", "a dog"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {line.split("  ")[1] for line in shown} == {"a cat", "a dog"}


def test_int8_is_smaller_and_reports_its_parity(exported, profile, tmp_path, capsys):
    arguments = ["--profile", str(profile), "--format", "onnx", "--int8", "--to", str(tmp_path / "out")]
    assert main(["export", STUDENT, *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" fp32 ") == printed.count(" int8 ") == 2
    assert "| image | int8 |" in (tmp_path / "out" / "README.md").read_text()
    for name in (as_onnx.IMAGE, as_onnx.TEXT):
        assert (tmp_path / "out" / name).stat().st_size < 0.5 * exported["onnx"].bytes[name]


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_the_same_student_gives_the_same_bytes(exported, pipeline, tmp_path, kind):
    again = export(pipeline, STUDENT, tmp_path / "out", kind)
    for name in again.bytes:
        assert (again.folder / name).read_bytes() == (exported[kind].folder / name).read_bytes(), name


def test_an_export_without_parity_is_not_written(pipeline, tmp_path, monkeypatch):
    right = writing.reparameterize

    def fused_wrongly(model):
        fused = right(model)
        with torch.no_grad():
            for parameter in fused.visual.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        return fused

    monkeypatch.setattr(writing, "reparameterize", fused_wrongly)
    with pytest.raises(UserError, match=r"image tower has a cosine of -?0\.\d+ .* The export was not written"):
        export(pipeline, STUDENT, tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_invalid_exports_are_rejected(pipeline, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    for message, arguments, settings in (
        ("it exists already", (STUDENT, tmp_path / "there", "onnx"), {}),
        ("no student 'teacher/wide'; the profile has student/pupil", ("teacher/wide", tmp_path / "out", "onnx"), {}),
        ("not materialized yet", ("student/pupil", tmp_path / "out", "onnx"), {}),
        ("openclip has no int8 form", (STUDENT, tmp_path / "out", "openclip"), {"int8": True}),
    ):
        with pytest.raises(UserError, match=message):
            export(pipeline, *arguments, **settings)
    monkeypatch.setattr(as_onnx, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"image\.onnx: [\d,]+ bytes do not fit"):
        export(pipeline, STUDENT, tmp_path / "out", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_an_export_requires_an_evaluation_set(profile, tmp_path):
    values = yaml.safe_load(profile.read_text())
    values["evaluation"] = []
    for student in values["students"]:
        student["evaluate_on"] = []
    other = profile.with_name("unevaluated.yaml")
    other.write_text(yaml.safe_dump(values, sort_keys=False))
    pipeline = Pipeline(load(other))
    pipeline.materialize(STUDENT)
    with pytest.raises(UserError, match="add a set to 'evaluation'"):
        export(pipeline, STUDENT, tmp_path / "out", "onnx")


def test_other_preprocessing_is_exported_only_as_openclip(pipeline, tmp_path):
    (stored,) = pipeline.read(STUDENT)
    found = Inputs([encode(picture())], ["a cat"], [encode(picture())])
    image_text = load_image_text(stored, pipeline.inventory)
    image_text.preprocess = type(image_text.preprocess)(32, interpolation="nearest")
    with pytest.raises(UserError, match="does not support the interpolation 'nearest'"):
        write(image_text, found, tmp_path, "onnx")
    image_text.tokenize = lambda texts: torch.zeros(len(texts), 12, dtype=torch.long)
    with pytest.raises(UserError, match="the tokenizer of the model is function"):
        write(image_text, found, tmp_path, "torchscript")


def test_mobileclip2_s0_as_onnx(tmp_path, pipeline):
    image_text = build(Model(open_clip="MobileCLIP2-S0"))
    _trained_statistics(image_text.model)
    images = [encode(draw(label, "s0")) for label in CLASSES[:3]]
    measured = write(image_text, Inputs(images, CLASSES[:3], images), tmp_path, "onnx")
    assert min(each.lowest for each in measured) >= LEAST
