from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from mobileclip2.config.slurm import Slurm
from mobileclip2.executors.commands import worker_command
from mobileclip2.executors.slurm_scripts import array_script, unsharded_script

FILES = ("name", Path("/logs"), worker_command("/venv/bin/python", "/my store", ".orders/name.json"))


def settings(**fields: Any) -> Slurm:
    return Slurm.model_validate(fields)


def training(slurm: Slurm) -> str:
    return unsharded_script(slurm, slurm.stage("student"), *FILES, trains=True)


def test_an_array_job_lists_its_chunks_and_passes_their_total() -> None:
    slurm = settings(partition="gpu", setup=["module load cuda"], stages={"raw_shards": {"tasks": 3}})
    lines = array_script(slurm, slurm.stage("raw_shards"), *FILES, 9, [0, 1, 2, 5, 7, 8]).splitlines()
    assert lines[0] == "#!/bin/bash"
    assert {"#SBATCH --array=0-2,5,7-8%3", "#SBATCH --comment=of=9", "#SBATCH --partition=gpu"} <= set(lines)
    assert lines[-3:] == [
        "module load cuda",
        "export JOB_COMPLETION_INDEX=$SLURM_ARRAY_TASK_ID",
        "exec /venv/bin/python -m mobileclip2.executors.worker '/my store' .orders/name.json --of 9",
    ]


def test_stage_options_are_added_to_cluster_options() -> None:
    slurm = settings(
        account="lab", gres="gpu:a100", stages={"student": {"options": ["--constraint=ib"], "qos": "long"}}
    )
    lines = training(slurm).splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert {"--gres=gpu:a100:8", "--account=lab", "--qos=long", "--requeue", "--signal=TERM@120"} <= set(options)
    assert "--constraint=ib" in options


def test_a_training_on_one_node_opens_no_network_port() -> None:
    script = training(settings())
    assert "--nproc-per-node=8" in script and "--local-addr=127.0.0.1" in script and "PET_MASTER" not in script
    alone = training(settings(stages={"student": {"gpus": 1}}))
    assert alone.splitlines()[-1] == (
        "exec srun /venv/bin/python -m mobileclip2.executors.worker '/my store' .orders/name.json"
    )


def test_every_node_of_a_training_runs_the_command_with_its_rank(tmp_path: Any) -> None:
    """Run the script with bash, with stand-ins for Slurm's commands and a Python that prints its arguments."""
    for name, body in {
        "scontrol": 'if [ "$2" = hostnames ]; then printf "n1\\nn2\\n"; else echo "NodeName=$4 NodeAddr=10.0.0.7 X=1"; fi',
        "srun": 'shift; SLURM_NODEID=1 exec "$@"',
        "python": 'echo "$PET_NODE_RANK $PET_MASTER_ADDR $PET_MASTER_PORT"; printf "%s\\n" "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = settings(stages={"student": {"nodes": 2, "gpus": 4}})
    worker = worker_command("python", "/my store", "key")
    script = unsharded_script(slurm, slurm.stage("student"), "n", Path("/l"), worker, trains=True)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "20005"}
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    ranked, *words = done.stdout.splitlines()
    assert ranked == "1 10.0.0.7 20005"
    assert words == [
        *("-m", "mobileclip2.executors.torchrun", "--nnodes=2", "--nproc-per-node=4"),
        *("-m", "mobileclip2.executors.worker", "/my store", "key"),
    ]


@pytest.mark.parametrize("option", ["constraint=a", "--x\n#SBATCH --wrap=rm", "-p gpu", ""])
def test_an_invalid_sbatch_option_is_rejected(option: str) -> None:
    with pytest.raises(ValueError, match="is not an option of sbatch; write it as --name=value"):
        settings(stages={"student": {"options": [option]}})
