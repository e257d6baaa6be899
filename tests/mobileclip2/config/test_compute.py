from __future__ import annotations

import pytest
from pydantic import ValidationError

from mobileclip2.config.compute import SANE, ComputeSettings, Kubernetes, Pods, Toleration
from mobileclip2.fingerprint import declared


def test_a_profile_overrides_single_fields_of_a_stage() -> None:
    pods = Kubernetes(image="i", stages={"teacher_embeddings": {"pods": 3}}).pods("teacher_embeddings")
    assert pods.pods == 3 and pods.gpus == SANE["teacher_embeddings"]["gpus"] == 1
    assert Kubernetes(image="i").pods("raw_shards") == Pods()


def test_an_unknown_field_of_a_stage_is_rejected() -> None:
    with pytest.raises(ValidationError, match="gpu_count"):
        Kubernetes(image="i", stages={"student": {"gpu_count": 1}})


def test_collective_minutes_above_the_limit_are_rejected() -> None:
    with pytest.raises(ValidationError, match=r"collective_minutes\n.*less than or equal to 1000000"):
        ComputeSettings(collective_minutes=1e300)


def test_a_toleration_has_a_value_only_with_equal() -> None:
    assert Toleration(key="spot", operator="Equal", value="true").value == "true"
    for fields in ({"operator": "Equal"}, {"operator": "Exists", "value": "true"}):
        with pytest.raises(ValidationError, match="'operator: Equal' needs 'value'"):
            Toleration.model_validate(fields)


def test_compute_settings_are_not_part_of_the_fingerprint() -> None:
    assert declared(ComputeSettings(processes=3, kubernetes=Kubernetes(image="i"))) == {}
