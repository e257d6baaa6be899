from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from mobileclip2.errors import ShardError, UserError
from mobileclip2.evaluation.evaluate import curve_numbers, evaluate
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.models.image_text import ImageText
from mobileclip2.progress import Step
from tests.mobileclip2.evaluation.small_sets import CLASSES, RETRIEVAL, WriteSet, build_model, captioned, labeled


def _one_at_a_time(model: ImageText, each: EvaluationSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed images and prompts or captions one at a time, without batches and caches."""
    images = [
        model.embed_images(model.preprocess.whole(Image.open(io.BytesIO(s.image)).convert("RGB"))[None])[0]
        for s in each.samples()
    ]
    if each.kind == "retrieval":
        texts = [model.embed_texts([caption])[0] for s in each.samples() for caption in s.captions]
    else:
        texts = []
        for name in each.classnames:
            mean = sum(model.embed_texts([t.format(c=name)])[0] for t in each.templates) / len(each.templates)
            texts.append(mean / mean.norm())
    return torch.stack(images), torch.stack(texts)


def test_classification_equals_a_slow_evaluation(model: ImageText, write_set: WriteSet) -> None:
    targets = [(7 * seed) % 5 for seed in range(40)]
    shards = [[(f"s{s}", labeled(s, targets[s])) for s in range(start, start + 20)] for start in (0, 20)]
    each = write_set(*shards)
    (result,) = evaluate(model, [each], batch=8)
    images, weights = _one_at_a_time(model, each)
    order = [sorted(range(6), key=lambda c: -float(image @ weights[c])) for image in images]
    recalls = [
        sum(o[0] == c for o, t in zip(order, targets, strict=True) if t == c) / targets.count(c) for c in range(5)
    ]
    assert result.metrics["acc1"] == sum(o[0] == t for o, t in zip(order, targets, strict=True)) / 40
    assert result.metrics["acc5"] == sum(t in o[:5] for o, t in zip(order, targets, strict=True)) / 40
    assert result.metrics["mean_per_class_recall"] == pytest.approx(sum(recalls) / 5)
    assert result.main == result.metrics["acc1"] and (result.key, result.dataset) == ("pets", "pets")
    assert result.samples is not None
    table = result.samples.to_pydict()
    assert table["key"] == [f"s{s}" for s in range(40)] and table["target"] == targets
    assert table["predicted"] == [o[0] for o in order]
    assert table["rank"] == [o.index(t) for o, t in zip(order, targets, strict=True)]
    assert len(set(table["predicted"])) > 1, "the test's model must tell images apart"


def test_retrieval_equals_a_slow_evaluation(model: ImageText, write_set: WriteSet) -> None:
    words = ["red", "dog", "house", "tree", "small", "two", "cat", "by the", "sea"]
    captions = [[f"{words[s % 9]} {words[(s + n) % 7]} {s}" for n in range(1 + s % 5)] for s in range(15)]
    each = write_set([(f"s{s}", captioned(s, *captions[s])) for s in range(15)], files=RETRIEVAL)
    (result,) = evaluate(model, [each], batch=4)
    images, texts = _one_at_a_time(model, each)
    owners = [s for s in range(15) for _ in captions[s]]
    scores = images @ texts.T
    for k in (1, 5, 10):
        text_hits = [
            any(owners[t] == s for t in sorted(range(len(owners)), key=lambda t: -float(scores[s, t]))[:k])
            for s in range(15)
        ]
        image_hits = [
            owners[t] in sorted(range(15), key=lambda s: -float(scores[s, t]))[:k] for t in range(len(owners))
        ]
        assert result.metrics[f"text_retrieval_recall@{k}"] == pytest.approx(sum(text_hits) / 15)
        assert result.metrics[f"image_retrieval_recall@{k}"] == pytest.approx(sum(image_hits) / len(owners))
    assert result.main == result.metrics["mean_recall@1"]
    assert result.samples is not None
    table = result.samples.to_pydict()
    assert table["query"] == ["text"] * len(owners) + ["image"] * 15
    assert table["key"] == [f"s{s}" for s in owners] + [f"s{s}" for s in range(15)]


def test_images_of_several_sets_are_embedded_once(model: ImageText, write_set: WriteSet) -> None:
    whole = write_set([(f"s{s}", labeled(s, s % 6)) for s in range(10)], name="whole")
    part = write_set([(f"p{s}", labeled(s, s % 3)) for s in range(4)], name="part")
    pairs = write_set([(f"r{s}", captioned(s, f"a {CLASSES[s]}")) for s in range(6)], name="pairs", files=RETRIEVAL)
    sizes: list[int] = []
    hook = model.model.visual.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    steps: list[Step] = []
    together = evaluate(model, [whole, part, pairs], batch=4, progress=steps.append)
    hook.remove()
    assert sum(sizes) == 10
    assert [result.key for result in together] == ["whole", "part", "pairs"]
    assert (steps[-1].done, steps[-1].total, steps[-1].unit) == (20, 20, "images")
    apart = [evaluate(model, [each])[0] for each in (whole, part, pairs)]
    assert together == apart


def test_a_broken_set_fails_before_another_is_measured(model: ImageText, write_set: WriteSet) -> None:
    good = write_set([("a", labeled(0, 0))], name="good")
    bad = write_set([("a", labeled(0, 0))], name="bad", files={"classnames.txt": None, "dataset_type.txt": None})
    (bad.path / "zeroshot_classification_templates.txt").unlink()
    steps: list[Step] = []
    with pytest.raises(UserError, match="'bad'"):
        evaluate(model, [good, bad], progress=steps.append)
    assert not steps


def test_one_class_out_of_range_fails_the_set(model: ImageText, write_set: WriteSet) -> None:
    each = write_set([("a", labeled(0, 0)), ("b", labeled(1, 6)), ("c", labeled(2, 1))])
    with pytest.raises(ShardError, match=r"1 of 3 .*'b' \(class-out-of-range: class index 6, but .* has 6 lines"):
        evaluate(model, [each])


def test_training_mode_and_dropout_do_not_matter(write_set: WriteSet) -> None:
    each = write_set([(f"s{s}", labeled(s, s % 6)) for s in range(12)])
    model = build_model(seed=5)
    before = evaluate(model, [each], device="cpu")
    model.model.train()
    assert evaluate(model, [each]) == before


def test_curve_numbers_leave_out_undefined_metrics(model: ImageText, write_set: WriteSet) -> None:
    few = {"classnames.txt": "dog\ncat\n"}
    (result,) = evaluate(model, [write_set([("a", labeled(0, 0)), ("b", labeled(1, 1))], files=few)])
    assert set(curve_numbers([result])) == {"pets/acc1", "pets/mean_per_class_recall"}
    assert result.metrics["acc5"] is None
