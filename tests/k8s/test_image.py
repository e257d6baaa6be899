"""Workers in the image that ``k8s/try-image`` builds compute a group as the workers of one machine do.

A container has what its pod requests: the command, the user, a read-only root file system, no capabilities, no new
privileges, and a folder for each volume. runc starts it, as containerd does. It does not have the seccomp profile of
the runtime, limits of memory, or a network of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.executors import executor_of
from tests.cluster import FakeCluster, Object
from tests.mobileclip2.executors.gate import manifests
from tests.tiny import make_tiny

pytestmark = pytest.mark.image

SETTINGS = """
compute:
  kubernetes:
    image: IMAGE
    stages: {raw_shards: {pods: 2}, teacher_embeddings: {pods: 2}}
"""
STAGES = (
    ("raw_shards", "g00"),
    ("augmentations", "g00"),
    ("teacher/wide", None),
    ("teacher_embeddings/wide/image", "g00"),
)


class ImageCluster(FakeCluster):
    """A fake cluster that has one image, mounted at ``root``, and one shared folder."""

    root: Path
    environment: dict[str, str]
    shared: Path

    def image_environment(self) -> dict[str, str]:
        return dict(self.environment)

    def seen_in_container(self, scratch: Path) -> str:
        return "/scratch"

    def start_container(self, pod: Object, command: list[str], env: dict[str, str], log: Path) -> None:
        name, user = pod["metadata"]["name"], pod["spec"]["securityContext"]
        scratch = self.folder / name / "scratch"
        os.chown(scratch, user["runAsUser"], user["fsGroup"])
        (scratch.parent / "config.json").write_text(
            json.dumps(bundle(pod, command, env, self.root, {scratch: Path("/scratch"), self.shared: self.shared}))
        )

        def run() -> None:
            with log.open("wb") as output:
                runc = ["runc", "run", "--bundle", str(scratch.parent), name]
                status = subprocess.run(runc, stdin=subprocess.DEVNULL, stdout=output, stderr=output).returncode
            self.ended(name, status)

        threading.Thread(target=run, daemon=True).start()


def bundle(
    pod: Object, command: list[str], env: dict[str, str], root: Path, volumes: dict[Path, Path]
) -> dict[str, Any]:
    """Return the configuration of an OCI runtime for the container of a pod."""
    (container,) = pod["spec"]["containers"]
    user, security = pod["spec"]["securityContext"], container["securityContext"]
    assert user["runAsNonRoot"] and security["capabilities"] == {"drop": ["ALL"]}
    bind = {"type": "bind", "options": ["rbind", "rw", "nosuid", "nodev"]}
    memory = {"type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]}
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": security["readOnlyRootFilesystem"]},
        "process": {
            "args": command,
            "env": [f"{name}={value}" for name, value in env.items()],
            "cwd": "/app",
            "user": {"uid": user["runAsUser"], "gid": user["runAsGroup"], "additionalGids": [user["fsGroup"]]},
            "capabilities": {},
            "noNewPrivileges": not security["allowPrivilegeEscalation"],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", **memory, "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/shm", **memory},
            *({"source": str(source), "destination": str(target), **bind} for source, target in volumes.items()),
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
    }


@pytest.fixture(scope="module")
def image() -> str:
    name = os.environ.get("MOBILECLIP2_IMAGE")
    if not name:
        pytest.skip("MOBILECLIP2_IMAGE names no image; k8s/try-image builds one")
    return name


@pytest.fixture(scope="module")
def root(image: str) -> Iterator[Path]:
    """Return the path at which the file system of the image is mounted."""
    container = output("buildah", "from", "--pull-never", image)
    try:
        yield Path(output("buildah", "mount", container))
    finally:
        output("buildah", "rm", container)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def test_a_group_in_the_image_has_the_manifests_of_one_machine(
    image: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = make_tiny(tmp_path / "one" / "tiny", shards=4, samples=4)
    profile.write_text(profile.read_text() + SETTINGS.replace("IMAGE", image))
    shared = tmp_path / "cluster"
    on_cluster = Path(shutil.copytree(profile.parent, shared / "tiny")) / profile.name
    compute(Pipeline(load(profile)))
    # a claim's folder belongs to the group of the pods
    output("chown", "-R", "10001:10001", str(shared))
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)

    cluster = ImageCluster(tmp_path / "nodes", {"one": 2, "two": 2})
    config = json.loads(output("buildah", "inspect", "--type", "image", image))["OCIv1"]["config"]
    assert config["User"] == "10001:10001"
    cluster.root, cluster.shared = root, shared
    cluster.environment = dict(variable.split("=", 1) for variable in config["Env"])
    with cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        loaded = load(on_cluster)
        # on a cluster the run is a pod of the same user; here it is root
        earlier = os.umask(0)
        try:
            compute(Pipeline(loaded, executor_of(loaded)))
        finally:
            os.umask(earlier)
        assert len(cluster.everything) >= 4
    assert manifests(on_cluster) == manifests(profile)


def test_the_image_has_no_tests_and_no_world_writable_files(root: Path) -> None:
    assert not list(root.glob("opt/venv/lib/python*/site-packages/pytest")) and not (root / "app/tests").exists()
    writable = [path for path in (root / "app").rglob("*") if path.stat().st_mode & 0o002 and not path.is_symlink()]
    assert writable == []
    assert (root / "scratch").stat().st_uid == 10001


def compute(pipeline: Pipeline) -> None:
    for asset, group in STAGES:
        pipeline.materialize(asset, group)
