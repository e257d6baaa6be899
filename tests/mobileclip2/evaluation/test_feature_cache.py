from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mobileclip2.evaluation.feature_cache import CONTENTS, FOLDER, FeatureCache
from mobileclip2.models.sealed_tensors import write_sealed

FEATURES = torch.arange(6.0).view(3, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the features of the keys a, b and c."""
    cache = FeatureCache(tmp_path)
    cache.add(["a", "b", "c"], FEATURES)
    cache.save()
    return tmp_path


def test_saved_features_come_back_in_the_requested_order(folder: Path) -> None:
    cache = FeatureCache(folder)
    assert all(key in cache for key in "abc") and "d" not in cache
    assert torch.equal(cache.get(["c", "a"]), FEATURES[[2, 0]])


def test_only_new_features_are_written_to_a_new_file(folder: Path) -> None:
    (first,) = folder.iterdir()
    cache = FeatureCache(folder)
    assert "a" in cache
    cache.save()
    assert list(folder.iterdir()) == [first]
    cache.add(["d"], torch.ones(1, 2))
    cache.save()
    (second,) = set(folder.iterdir()) - {first}
    second.rename(folder / "only.safetensors")
    first.unlink()
    again = FeatureCache(folder)
    assert "d" in again and "a" not in again


@pytest.mark.parametrize("size", [0, 10, -1])
def test_the_keys_of_a_damaged_file_are_missing(folder: Path, size: int) -> None:
    (file,) = folder.iterdir()
    opened_before = FeatureCache(folder)
    file.write_bytes(file.read_bytes()[:size])
    assert "a" not in FeatureCache(folder) and "a" not in opened_before


@pytest.mark.parametrize("contents", ["[" * 100_000, "[", "7", "[[]]", '["a", "b"]'])
def test_features_with_damaged_contents_are_recomputed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, contents: str
) -> None:
    owner = f"{tmp_path.parent.name}/{tmp_path.name}"
    write_sealed(tmp_path / "x.safetensors", {"features": FEATURES}, {CONTENTS: contents, FOLDER: owner})
    assert "a" not in FeatureCache(tmp_path) and "not used, and its features are recomputed" in caplog.text


def test_permuted_and_altered_features_are_recomputed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for changed in (
        whole.replace(b'[\\"a\\", \\"b\\", \\"c\\"]', b'[\\"b\\", \\"a\\", \\"c\\"]'),
        whole[:-24] + whole[-16:] + whole[-24:-16],
        whole[:-1] + bytes([whole[-1] ^ 1]),
    ):
        assert changed != whole
        file.write_bytes(changed)
        opened = FeatureCache(folder)
        assert not any(key in opened for key in "abc")
        assert f"{file}: not used, and its features are recomputed" in caplog.text and not file.exists()
        opened.add(["a", "b", "c"], FEATURES)
        opened.save()
        again = FeatureCache(folder)
        assert "a" in again and torch.equal(again.get(["a", "b", "c"]), FEATURES)
        caplog.clear()


def test_the_features_of_another_model_are_recomputed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for model in ("one", "other"):
        cache = FeatureCache(tmp_path / model / "images")
        cache.add(["a"], torch.full((1, 2), float(len(model))))
        cache.save()
    (one,), (other,) = ((tmp_path / model / "images").iterdir() for model in ("one", "other"))
    one.write_bytes(other.read_bytes())
    assert "a" not in FeatureCache(one.parent) and "it belongs to other/images" in caplog.text


def test_a_file_of_another_program_is_ignored(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": FEATURES}, folder / "other.safetensors")
    assert "a" in FeatureCache(folder)


def test_without_a_folder_features_stay_in_memory() -> None:
    cache = FeatureCache(None)
    cache.add(["a"], torch.ones(1, 2))
    cache.save()
    assert "a" in cache and torch.equal(cache.get(["a"]), torch.ones(1, 2))
