"""The command prints the inputs, the models and the cost of a run, and lists all problems."""

from __future__ import annotations

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from pipelines.check import check_profile
from pipelines.cli import main


def test_it_shows_inputs_models_and_estimates(tiny, capsys):
    check_profile(Pipeline(load(tiny)))
    printed = capsys.readouterr().out
    assert "source 'made'" in printed and "'a red square', 48 x 48 pixels" in printed
    assert "classification, 12 classes" in printed and "small CoCa on tf_efficientnet_lite0" in printed
    assert "The time of raw_shards" in printed and "rates: {raw_shards: ...}" in printed
    assert "Traceback" not in printed and not (tiny.parent / "store").exists()


def test_rates_in_the_profile_give_a_time_estimate(tiny, capsys):
    stages = ("raw_shards", "augmentations", "caption_corpus", "captioner", "synthetic_captions", "teacher")
    stages += ("teacher_embeddings", "reinforced_dataset", "student", "evaluation")
    tiny.write_text(tiny.read_text() + f"rates: {{{', '.join(f'{stage}: 0.01' for stage in stages)}}}\n")
    check_profile(Pipeline(load(tiny)))
    printed = capsys.readouterr().out
    assert "40 min" in printed and "is not known" not in printed


def test_all_problems_are_numbered_and_the_status_is_1(tiny, capsys):
    (tiny.parent / "shards").rename(tiny.parent / "photos")
    (tiny.parent / "evaluation" / "shapes" / "classnames.txt").unlink()
    with pytest.raises(
        UserError, match=r"tiny: 2 problems; nothing was run\n  1\. source 'made'.*\n  2\. evaluation set"
    ):
        check_profile(Pipeline(load(tiny)))
    capsys.readouterr()
    assert main(["check", "--profile", str(tiny)]) == 1
    assert "mobileclip2: tiny: 2 problems" in capsys.readouterr().err


def test_unread_tar_files_are_named_in_one_line(tiny, capsys):
    for name in ("90.TAR", "91.tar.gz", "92.tar.zst", "93.tgz"):
        (tiny.parent / "shards" / name).touch()
    check_profile(Pipeline(load(tiny)))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "not read" in line]
    assert line.strip() == (
        "source 'made': not read: 90.TAR, 91.tar.gz, 92.tar.zst and 1 more; make plain tars of them, named '.tar', to use them"
    )
