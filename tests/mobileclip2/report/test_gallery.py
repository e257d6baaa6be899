"""The gallery shows the stored rankings and confusions of several models on the same pictures."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from mobileclip2.data.image import decode
from mobileclip2.data.tar import TarWriter
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.results import Result
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.report.gallery import CONFUSED, QUERIES, SHOWN, Gallery, confused, gallery_set, gather_gallery, queries
from mobileclip2.report.gather import evaluated_models
from mobileclip2.report.page import EvaluatedModel
from mobileclip2.report.pipeline import Report, render_pipeline
from tests.mobileclip2.evaluation.small_sets import CLASSES, captioned, labeled, picture


@pytest.fixture
def write_set(tmp_path):
    def write(name, samples, **texts) -> EvaluationSet:
        folder = tmp_path / name
        (folder / "test").mkdir(parents=True)
        with TarWriter(folder / "test" / "0.tar") as tar:
            for key, members in samples:
                tar.write(key, members)
        (folder / "test" / "nshards.txt").write_text("1\n")
        for file, text in texts.items():
            (folder / f"{file}.txt").write_text(text)
        return EvaluationSet(name, folder)

    return write


def pixels(seed: int) -> bytes:
    return decode(picture(seed)).tobytes()


@pytest.fixture
def pairs(write_set) -> EvaluationSet:
    samples = [(f"s{n}", captioned(n, f"first {n}", f"second {n}")) for n in range(8)]
    return write_set("pairs", samples, dataset_type="retrieval")


def ranked(set_: EvaluationSet, shift: int) -> Result:
    """Return the result of a model that ranks picture n + shift first for a text of picture n."""
    near = [[(n // 2 + shift + place) % 8 for place in range(5)] for n in range(16)]
    ranks = [next((place for place in range(5) if row[place] == n // 2), 7) for n, row in enumerate(near)]
    table = {"query": ["text"] * 16 + ["image"] * 8, "key": ["k"] * 24}
    return Result(
        set_.name, set_.name, {}, samples=pa.table({**table, "rank": ranks + [0] * 8, "nearest": near + [[0]] * 8})
    )


def test_evenly_spaced_texts_have_the_pictures_of_each_model(pairs):
    found = queries(pairs, {"teacher": ranked(pairs, 0), "student": ranked(pairs, -1)})
    assert len(found) == QUERIES
    assert [query.text for query in found] == ["second 0", "first 2", "first 3", "second 4", "first 6", "first 7"]
    query = found[1]
    assert query.answer.tobytes() == pixels(2)
    assert [(each.model, each.rank) for each in query.rankings] == [("teacher", 0), ("student", 1)]
    assert [each.content.tobytes() for each in query.rankings[1].pictures] == [pixels(n) for n in (1, 2, 3, 4, 5)]
    assert [each.right for each in query.rankings[1].pictures] == [False, True, False, False, False]


@pytest.fixture
def pets(write_set) -> EvaluationSet:
    texts = {"classnames": "\n".join(CLASSES) + "\n", "zeroshot_classification_templates": "{c}\n"}
    return write_set("pets", [(f"k{9 - n}", labeled(n, n // 4)) for n in range(8)], **texts)


def predicted(set_: EvaluationSet, *classes: int) -> Result:
    targets = [n // 4 for n in range(8)]
    columns = {"key": [f"k{9 - n}" for n in range(8)], "target": targets, "predicted": list(classes)}
    return Result(set_.name, set_.name, {}, samples=pa.table(columns))


def test_student_confusions_have_pictures_and_counts_of_all_models(pets):
    results = {
        "teacher": predicted(pets, 0, 0, 0, 1, 1, 1, 1, 1),
        "student": predicted(pets, 1, 1, 1, 1, 1, 1, 5, 0),
    }
    found = confused(pets, results, "student")
    assert [(each.right, each.taken) for each in found] == [("dog", "cat"), ("cat", "dog"), ("cat", "elk")]
    first = found[0]
    assert (first.counts, first.total) == ({"teacher": 1, "student": 4}, 4)
    assert [each.tobytes() for each in first.pictures] == [pixels(n) for n in (3, 2, 1)] and len(
        first.pictures
    ) == SHOWN
    assert first.example and first.example.tobytes() == pixels(7)
    assert found[2].example is None, "the set has no picture of an elk"
    assert len(found) <= CONFUSED


def page(pairs: EvaluationSet, pets: EvaluationSet) -> str:
    models = {"big <teacher>": "teacher", "student": "student", "plain": "baseline"}
    retrieved = {name: ranked(pairs, -number) for number, name in enumerate(models)}
    classes = {name: predicted(pets, 1, 1, 0, 0, 1, 1, 5, number) for number, name in enumerate(models)}
    sets = [gallery_set(pairs, retrieved, "student"), gallery_set(pets, classes, "student")]
    gallery = Gallery(models, "student", [each for each in sets if each])
    return render_pipeline(Report("t", "p", "d", [EvaluatedModel("student", "student", [])], gallery=gallery))


def test_the_page_escapes_names_describes_pictures_and_is_reproducible(pairs, pets):
    first = page(pairs, pets)
    assert first == page(pairs, pets)
    assert "big &lt;teacher&gt;" in first and "<teacher>" not in first
    body = first.partition('id="gallery"')[2].partition("</section>")[0]
    assert body.count("<img") == body.count('alt="') and 'alt=""' not in body
    assert "<script" not in first and "right at place 2" in body and "right first" in body
    assert "place 1 of student for: first 2" in body and "dog, taken for cat by student" in body
    assert "Taken for elk: 1 of 4 by big &lt;teacher&gt;, 1 of 4 by student" in body, "each count says what it counts"


def test_a_report_without_a_gallery_has_no_section():
    assert 'id="gallery"' not in render_pipeline(Report("t", "p", "d"))


@pytest.fixture
def pipeline(materialized: Callable[..., Pipeline]) -> Pipeline:
    return materialized("evaluation/wide", "evaluation/pupil", "evaluation/plain")


def test_the_models_are_teacher_student_and_baseline(pipeline: Pipeline) -> None:
    models = [model for model in evaluated_models(pipeline) if model.name != "narrow"]
    gallery = gather_gallery(pipeline, models)
    assert gallery and gallery.models == {"wide": "teacher", "pupil": "student", "plain": "baseline"}
    (shapes,) = gallery.sets
    assert shapes.name == "shapes" and shapes.confused
    assert set(shapes.confused[0].counts) == {"wide", "pupil", "plain"}
    own = gather_gallery(pipeline, models, "plain")
    assert own and own.student == "plain" and own.models == {"wide": "teacher", "plain": "student"}


def test_without_an_evaluated_student_there_is_no_gallery(pipeline: Pipeline) -> None:
    assert gather_gallery(pipeline, [model for model in evaluated_models(pipeline) if model.kind == "teacher"]) is None
