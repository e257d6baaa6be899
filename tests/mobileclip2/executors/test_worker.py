from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline, TaskBatch
from mobileclip2.engine.task import TaskSpec
from mobileclip2.executors.messages import PERMANENT, Failure, StepReport, parse_output
from mobileclip2.executors.worker import main
from mobileclip2.progress import Step, silent


def test_the_exit_status_separates_temporary_from_permanent_errors(tiny, monkeypatch, capfd):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    pipeline = Pipeline(load(tiny))
    pipeline.materialize("raw_shards", "g00")
    asset = pipeline.graph["augmentations"]
    tasks = [pipeline.task_for(asset, part, "g00") for part in asset.parts.values()]
    spec = TaskSpec.of(TaskBatch(pipeline, asset, "g00", tasks, silent))
    assert main([spec.store, spec.key, "--of", "1"]) == PERMANENT
    (failure,), _ = parse_output(capfd.readouterr().out)
    assert failure.permanent and "the task spec was deleted" in failure.message
    spec.write(pipeline.storage)
    assert main([spec.store, spec.key, "--of", "1"]) == 0
    assert parse_output(capfd.readouterr().out)[0][-1] == StepReport(step=Step(2, 2, "shards"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "nowhere")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert main(["s3://bucket/store", spec.key, "--of", "1"]) == 1
    (failure,), _ = parse_output(capfd.readouterr().out)
    assert isinstance(failure, Failure) and not failure.permanent
