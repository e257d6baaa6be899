from __future__ import annotations

import pytest
from pydantic import ValidationError

from mobileclip2.config.compute import ComputeSettings
from mobileclip2.config.slurm import Slurm


def test_settings_of_a_stage_override_those_of_the_cluster_and_the_defaults() -> None:
    slurm = Slurm.model_validate({"partition": "gpu", "stages": {"student": {"nodes": 4, "partition": "big"}}})
    student, embeddings, raw = (slurm.stage(name) for name in ("student", "teacher_embeddings", "raw_shards"))
    assert (student.nodes, student.gpus, student.partition) == (4, 8, "big")
    assert (embeddings.gpus, embeddings.partition) == (1, "gpu")
    assert (raw.gpus, raw.partition) == (0, "gpu")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": {"student": {"memory": "lots"}}}, "memory"),
        ({"stages": {"studnt": {}}}, "studnt"),
        ({"ssh": "host; rm"}, "ssh"),
        ({"ssh": "-oProxyCommand=x"}, "ssh"),
        ({"folder": "s3://bucket/logs"}, "not a local path"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Slurm.model_validate(fields)


def test_stages_run_on_one_cluster() -> None:
    with pytest.raises(ValidationError, match="'kubernetes' and 'slurm' are both given"):
        ComputeSettings.model_validate({"kubernetes": {"image": "i"}, "slurm": {}})
