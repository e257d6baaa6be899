"""The tests in ``tests/mobileclip2/evaluation/test_evaluation_tasks.py`` run the tasks."""

from __future__ import annotations

from mobileclip2.config.evaluation_tasks import AVERAGES, TASKS, averages


def test_a_task_counts_if_it_has_a_main_metric() -> None:
    assert TASKS["imagenet1k"].counts and TASKS["imagenet1k"].main == "acc1"
    assert not TASKS["fairness/fairface"].counts and "fairness/fairface" not in AVERAGES["average"]


def test_the_dataset_of_a_task_has_no_slash_in_its_name() -> None:
    assert TASKS["vtab/pets"].source == "djghosh/wds_vtab-pets_test"
    assert TASKS["fairness/geode"].source == "djghosh/wds_geode_test"
    assert all(task.source.count("/") == 1 for task in TASKS.values())


def test_an_average_needs_the_main_metric_of_every_set() -> None:
    shifts = dict.fromkeys(AVERAGES["imagenet_shift"], 0.25)
    assert averages({**shifts, "mine": 1.0}) == {"imagenet_shift": 0.25}
    assert averages({**shifts, "objectnet": None}) == {}
