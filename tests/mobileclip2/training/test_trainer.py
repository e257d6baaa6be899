from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import StoreError, UserError, WeightsError
from mobileclip2.models.sealed_tensors import read_metadata
from mobileclip2.progress import Step
from mobileclip2.training import trainer
from mobileclip2.training.objectives import Batch, Contrastive, Gather, Reinforced
from mobileclip2.training.schedule import learning_rate
from mobileclip2.training.trainer import Diverged, Numbers, parameter_groups, train, train_mode
from pipelines.processes import process_id
from tests.mobileclip2.training.tiny_training import (
    TRAININGS,
    TinySource,
    finish,
    tiny_clip,
    tiny_conv_clip,
    tiny_training,
)
from tests.processes import descendants, start_process
from tests.waiting import until


def settings(**fields: Any) -> TrainSettings:
    return TrainSettings(**{"steps": 12, "batch": 8, "learning_rate": 1e-3, "warmup": 2, "log_every": 5, **fields})


def run(directory: Path, name: str = "contrastive", fingerprint: str = "a", **fields: Any) -> Numbers:
    model, objective = tiny_training(name)
    return train(model, objective, TinySource(), settings(**fields), directory, fingerprint=fingerprint)


def metrics(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", TRAININGS)
def test_training_lowers_the_loss(tmp_path: Path, name: str) -> None:
    run(tmp_path, name, steps=40, accumulate=2)
    losses = [record["loss"] for record in metrics(tmp_path)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_every_step_is_recorded_for_any_log_interval(tmp_path: Path) -> None:
    numbers = run(tmp_path / "a", log_every=5)
    run(tmp_path / "b", log_every=1, checkpoint_every=3, workers=1)
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    records = metrics(tmp_path / "a")
    assert [record["step"] for record in records] == list(range(1, 13))
    assert set(records[0]) == {"step", "loss", "lr", "logit_scale", "grad_norm"}
    assert [r["lr"] for r in records] == [learning_rate(step, settings()) for step in range(12)]
    assert numbers == records[-1]


def test_the_trained_weights_are_in_the_model_and_in_the_file(tmp_path: Path) -> None:
    model = tiny_clip()
    train(model, Contrastive(), TinySource(), settings(), tmp_path, fingerprint="a")
    assert not model.training
    torch.testing.assert_close(load_file(tmp_path / "model.safetensors"), dict(model.state_dict()), rtol=0, atol=0)


class Stop(Exception):
    pass


def stop_at(step: int) -> Any:
    def listen(sign: Step) -> None:
        if sign.done >= step:
            raise Stop

    return listen


@pytest.mark.parametrize("stopped_at", [2, 4, 7])
def test_a_stopped_run_resumes_with_the_same_results(tmp_path: Path, stopped_at: int) -> None:
    def conv(directory: Path, **listener: Any) -> None:
        # the model has dropout and batch norm, so random seeds and buffers matter too
        fields = settings(checkpoint_every=4, log_every=1)
        train(tiny_conv_clip(), Contrastive(), TinySource(), fields, directory, fingerprint="a", **listener)

    conv(tmp_path / "whole")
    with pytest.raises(Stop):
        conv(tmp_path / "stopped", progress=stop_at(stopped_at))
    torch.rand(3)
    conv(tmp_path / "stopped")
    for file in ("metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "weights": lambda path: flip(path, len(path.read_bytes()) // 3),
    "moments": lambda path: flip(path, -8),
    "header": lambda path: flip(path, 40),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("damaged", ["newest", "both"])
@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_checkpoints_do_not_change_the_result(
    tmp_path: Path, name: str, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    fields = settings(steps=6, checkpoint_every=2, log_every=1)

    def conv(directory: Path, **listener: Any) -> None:
        train(tiny_conv_clip(), Contrastive(), TinySource(), fields, directory, fingerprint="a", **listener)

    conv(tmp_path / "whole")
    with pytest.raises(Stop):
        conv(tmp_path / "stopped", progress=stop_at(5))
    paths = sorted((tmp_path / "stopped").glob("resume*"), key=lambda path: path.stat().st_mtime_ns)
    for path in paths[-1:] if damaged == "newest" else paths:
        DAMAGE[name](path)
    steps: list[int] = []
    conv(tmp_path / "stopped", progress=lambda step: steps.append(step.done))
    for file in ("metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert steps[0] == (3 if damaged == "newest" else 1)
    assert f"{paths[-1].name}: damaged" in caplog.text
    assert ("starts from the beginning" in caplog.text) == (damaged == "both")


@pytest.mark.parametrize(("line", "first"), [(3, 3), (0, 1)])
def test_steps_with_damaged_metrics_are_trained_again(tmp_path: Path, line: int, first: int) -> None:
    fields = settings(steps=6, checkpoint_every=2, log_every=1)

    def trained(directory: Path, **listener: Any) -> None:
        train(tiny_clip(), Contrastive(), TinySource(), fields, directory, fingerprint="a", **listener)

    trained(tmp_path / "whole")
    with pytest.raises(Stop):
        trained(tmp_path / "stopped", progress=stop_at(5))
    metrics_file = tmp_path / "stopped" / "metrics.jsonl"
    lines = metrics_file.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"loss": ', b'"loss": 1')
    metrics_file.write_bytes(b"".join(lines))
    steps: list[int] = []
    trained(tmp_path / "stopped", progress=lambda step: steps.append(step.done))
    assert steps[0] == first
    assert metrics_file.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"the weights are not finite after step 1; lower learning_rate"):
        run(tmp_path, steps=1, warmup=0, learning_rate=1e38, weight_decay=1e38)
    assert not list(tmp_path.glob("resume*"))


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first = run(tmp_path)
    files = tmp_path / "metrics.jsonl", tmp_path / "model.safetensors"
    before = [file.read_bytes() for file in files]
    (tmp_path / "model.safetensors").unlink()
    assert run(tmp_path, batch=8) == first
    assert [file.read_bytes() for file in files] == before


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(WeightsError, match="belongs to the run a, but this run is b"):
        run(tmp_path, fingerprint="b")


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "contrastive")
    with pytest.raises(WeightsError, match=r"resume-0\.safetensors: does not fit this training: model\.text"):
        run(tmp_path, "coca")


def test_evaluations_join_the_metrics_of_their_step(tmp_path: Path) -> None:
    modes = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        modes.append((model.training, torch.is_grad_enabled()))
        torch.rand(1)
        return {"top1": float(len(modes))}

    model, objective = tiny_training("contrastive")
    result = train(
        model,
        objective,
        TinySource(),
        settings(evaluate_every=5),
        tmp_path,
        fingerprint="a",
        evaluate=evaluate,
    )
    found = {record["step"]: record["top1"] for record in metrics(tmp_path) if "top1" in record}
    assert found == {5: 1.0, 10: 2.0, 12: 3.0}
    assert modes == [(False, False)] * 3
    assert result["top1"] == 3.0
    run(tmp_path / "without", evaluate_every=5)
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "without/model.safetensors").read_bytes()


def test_progress_reports_steps_losses_and_rates(tmp_path: Path) -> None:
    signs: list[Step] = []
    train(*tiny_training("coca"), TinySource(), settings(), tmp_path, fingerprint="a", progress=signs.append)
    assert [sign.done for sign in signs] == [5, 10, 12] and signs[0].total == 12
    assert {"loss", "clip", "caption", "samples_per_second"} <= set(signs[0].numbers)


def test_the_temperature_is_clamped(tmp_path: Path) -> None:
    model = tiny_clip()
    nn.init.constant_(model.logit_scale, 5.0)
    train(model, Contrastive(), TinySource(), settings(steps=2, max_logit_scale=50), tmp_path, fingerprint="a")
    assert metrics(tmp_path)[0]["logit_scale"] == pytest.approx(50)
    assert model.logit_scale.exp().item() <= 50


def test_the_temperature_is_at_most_one(tmp_path: Path) -> None:
    model = tiny_clip()
    nn.init.constant_(model.logit_scale, -1.0)
    train(model, Contrastive(), TinySource(), settings(steps=2), tmp_path, fingerprint="a")
    assert metrics(tmp_path)[0]["logit_scale"] == pytest.approx(1)


@pytest.mark.parametrize("fields", [{"clip_norm": 1e-9}, {"betas": (0.5, 0.5)}, {"weight_decay": 0.0}])
def test_each_setting_of_the_optimizer_changes_the_weights(tmp_path: Path, fields: dict[str, Any]) -> None:
    for name, each in {"a": {}, "b": fields}.items():
        run(tmp_path / name, **each)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    assert any(not torch.equal(one, other) for one, other in zip(*(each.values() for each in weights), strict=True))


def test_every_micro_batch_has_its_own_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[tuple[int, ...]] = []

    def recorded(*place: int) -> int:
        places.append(place)
        return 0

    monkeypatch.setattr(trainer, "random_seed", recorded)
    run(tmp_path, steps=2, warmup=0, accumulate=2, seed=7)
    assert set(places) == {(7, step, 0, micro) for step in (1, 2) for micro in (0, 1)}


def test_files_are_uploaded_after_each_checkpoint(tmp_path: Path) -> None:
    kept: list[tuple[str, ...]] = []
    fields = settings(checkpoint_every=5)
    train(
        *tiny_training("contrastive"),
        TinySource(),
        fields,
        tmp_path,
        fingerprint="a",
        upload=lambda *names: kept.append(names),
    )
    names = ["resume-0.safetensors", "resume-1.safetensors", "resume-0.safetensors"]
    assert kept == [("metrics.jsonl", "timing.jsonl", name) for name in names]


def test_a_logit_bias_is_not_trained(tmp_path: Path) -> None:
    model = tiny_clip()
    model.logit_bias = nn.Parameter(torch.tensor(-10.0))
    train(model, Contrastive(), TinySource(), settings(steps=2), tmp_path, fingerprint="a")
    assert not model.logit_bias.requires_grad and model.logit_bias.item() == -10


def test_gains_biases_and_the_logit_scale_are_not_decayed() -> None:
    model = tiny_clip()
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, free = parameter_groups(model, 0.2)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.2, 0.0)
    decayed_names = {names[parameter] for parameter in decayed["params"]}
    free_names = {names[parameter] for parameter in free["params"]}
    assert {"visual.conv1.weight", "token_embedding.weight", "text_projection"} <= decayed_names
    assert {"logit_scale", "ln_final.weight", "ln_final.bias", "visual.class_embedding"} <= free_names
    assert decayed_names | free_names == set(names.values())


def test_frozen_modules_keep_their_weights_and_statistics(tmp_path: Path) -> None:
    model = tiny_conv_clip()
    for module in model.visual[:2]:
        module.requires_grad_(False)
    train_mode(model)
    assert not model.visual[1].training and model.visual[4].training and model.training
    before = {name: tensor.clone() for name, tensor in model.visual[:2].state_dict().items()}
    train(model, Contrastive(), TinySource(), settings(), tmp_path, fingerprint="a")
    torch.testing.assert_close(dict(model.visual[:2].state_dict()), before, rtol=0, atol=0)


class Projections(nn.Module):
    """The trainable layers of a locked-image teacher, which take features instead of images and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.encode_image, self.encode_text = nn.Linear(12, 8), nn.Linear(5, 8)
        self.logit_scale = nn.Parameter(torch.tensor(2.66))


class Cached(TinySource):
    def sample(self, epoch: int, index: int) -> dict[str, Tensor]:
        sample = super().sample(epoch, index)
        return {"image": sample["teacher_image"], "text": sample["teacher_image"][:5]}


def test_projections_train_on_cached_features(tmp_path: Path) -> None:
    fields = settings(steps=40, learning_rate=1e-2)
    train(Projections(), Contrastive(), Cached(), fields, tmp_path, fingerprint="a")
    assert metrics(tmp_path)[-1]["loss"] < metrics(tmp_path)[0]["loss"]


def test_a_store_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="a file lies where a folder is needed"):
        run(tmp_path / "file" / "folder")


class Exploding(Contrastive):
    def __init__(self, step: int) -> None:
        self.step, self.seen = step, 0

    def loss(self, features: dict[str, Tensor], batch: Batch, logit_scale: Tensor, gather: Gather) -> dict[str, Tensor]:
        self.seen += 1
        parts = super().loss(features, batch, logit_scale, gather)
        return {"loss": parts["loss"] * (float("nan") if self.seen == self.step else 1)}


def test_a_nan_loss_stops_training_before_the_next_checkpoint(tmp_path: Path) -> None:
    fields = settings(checkpoint_every=4, log_every=100)
    with pytest.raises(Diverged, match=r"loss is nan at step 7 of 12.*lower learning_rate"):
        train(tiny_clip(), Exploding(7), TinySource(), fields, tmp_path, fingerprint="a")
    assert [read_metadata(path)["step"] for path in tmp_path.glob("resume-*")] == ["4"]


class NoTeachers(TinySource):
    def sample(self, epoch: int, index: int) -> dict[str, Tensor]:
        sample = super().sample(epoch, index)
        return {key: tensor for key, tensor in sample.items() if not key.startswith("teacher_")}


def test_samples_with_missing_tensors_are_rejected(tmp_path: Path) -> None:
    objective = Reinforced((8, 4), (50.0, 30.0), captions="real")
    with pytest.raises(UserError, match="no teacher_image, teacher_text, which Reinforced needs; they have image"):
        train(tiny_clip(), objective, NoTeachers(), settings(), tmp_path, fingerprint="a")


def test_gradient_checkpointing_does_not_change_the_weights(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", gradient_checkpointing=True)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 1), (True, 2)])
def test_gradient_checkpointing_recomputes_each_block(tmp_path: Path, checkpointing: bool, passes: int) -> None:
    model = tiny_clip()
    calls: Counter[str] = Counter()
    for name, block in {"image": model.visual.transformer.resblocks[0], "text": model.transformer.resblocks[0]}.items():
        block.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    fields = settings(steps=3, warmup=0, gradient_checkpointing=checkpointing)
    train(model, Contrastive(), TinySource(), fields, tmp_path, fingerprint="a")
    assert calls == {"image": 3 * passes, "text": 3 * passes}


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_the_dtype_of_the_matrix_products(tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    model = tiny_clip()
    dtypes: set[torch.dtype] = set()
    for block in (model.visual.transformer.resblocks[0], model.transformer.resblocks[0]):
        block.mlp.c_fc.register_forward_hook(lambda _module, _inputs, output: dtypes.add(output.dtype))
    train(model, Contrastive(), TinySource(), settings(precision=precision), tmp_path, fingerprint="a")
    assert dtypes == {dtype}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_model_without_gradient_checkpointing_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gradient_checkpointing: Projections does not support it"):
        train(
            Projections(),
            Contrastive(),
            TinySource(),
            settings(gradient_checkpointing=True),
            tmp_path,
            fingerprint="a",
        )


def train_and_tell(directory: Path, ear: Connection) -> None:
    fields = settings(steps=40, accumulate=2, evaluate_every=15, checkpoint_every=10, log_every=1, workers=1)
    train(
        *tiny_training("reinforced"),
        TinySource(),
        fields,
        directory,
        fingerprint="a",
        evaluate=lambda model: {"scale": float(model.logit_scale)},
        progress=lambda sign: ear.send(sign.done),
    )


@pytest.mark.slow
def test_a_killed_process_resumes_with_byte_identical_results(tmp_path: Path) -> None:
    mouth, ear = Pipe(duplex=False)
    finish(start_process(train_and_tell, tmp_path / "whole", ear))
    while mouth.recv() < 40:
        pass
    killed = start_process(train_and_tell, tmp_path / "killed", ear)
    while mouth.recv() < 24:
        pass
    _, *workers = descendants(killed.pid)
    assert len(workers) >= 2  # the loader, and the server that forked it
    killed.kill()
    killed.join()
    until(lambda: not any(map(process_id, workers)), 60)
    assert killed.exitcode == -signal.SIGKILL and not (tmp_path / "killed/model.safetensors").exists()
    while mouth.poll():
        mouth.recv()
    finish(start_process(train_and_tell, tmp_path / "killed", ear))
    assert mouth.recv() == 21
    for file in ("metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
