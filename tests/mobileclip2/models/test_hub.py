"""Check published weights against a local server that refuses, is slow or is down."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
NAME = "hf-hub:somebody/some-model"


@pytest.fixture
def hub():
    """Run a server that answers every request with ``status`` and records the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            body = json.dumps({"id": "somebody/some-model", "siblings": []}).encode()
            self.send_response(server.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.status = [], 200
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def profile(tiny):
    values = yaml.safe_load(tiny.read_text())
    values["teachers"][0]["model"] = {"open_clip": NAME}
    tiny.write_text(yaml.safe_dump(values, sort_keys=False))
    return tiny


CODE = """
import sys
from pathlib import Path
from mobileclip2.errors import UserError
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.models import hub
from mobileclip2.stages.published_weights import check_published_weights
hub.TIMEOUT_SECONDS = float(sys.argv[2])
pipeline = Pipeline(load(Path(sys.argv[1])))
try:
    check_published_weights(pipeline, list(pipeline.graph))
except UserError as error:
    sys.exit(str(error))
"""


def check(profile, endpoint, timeout=60.0, **environment):
    """Run the check in a new process, because huggingface_hub reads its settings on import. Return its stderr."""
    home = profile.parent / "hub"
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", **environment}
    command = [sys.executable, "-c", CODE, str(profile), str(timeout)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True).stderr.strip()


def is_one_line(message):
    assert message.startswith(f"teachers.wide.model.open_clip: the weights {NAME} "), message
    return len(message.splitlines()) == 1 and "The run did not start" in message


def test_a_hub_that_refuses_the_connection(profile):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    message = check(profile, endpoint)
    assert is_one_line(message) and f"{endpoint} cannot be reached (ConnectError" in message
    assert "HF_HOME" in message and "'weights: {path: ...}'" in message


def test_a_hub_that_does_not_answer(profile):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts the connection and never answers
        message = check(profile, f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
    assert is_one_line(message) and "cannot be reached (ReadTimeout" in message


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, "does not show this repository"), (404, "does not show this repository"), (503, "answers HTTP 503")],
)
def test_a_hub_without_the_repository(profile, hub, status, expected):
    hub.status = status
    message = check(profile, hub.url)
    assert is_one_line(message) and expected in message and hub.asked


def test_a_hub_with_the_repository(profile, hub):
    assert check(profile, hub.url) == ""
    assert "/api/models/somebody/some-model" in hub.asked


def test_without_a_network_the_cache_is_enough(profile, hub):
    message = check(profile, hub.url, HF_HUB_OFFLINE="1")
    assert is_one_line(message) and "HF_HUB_OFFLINE is set" in message
    folder = profile.parent / "hub" / "hub" / "models--somebody--some-model"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    (snapshot / "open_clip_model.safetensors").touch()
    assert check(profile, hub.url, HF_HUB_OFFLINE="1") == ""
    assert not hub.asked


@pytest.mark.slow
def test_a_run_fails_before_its_first_stage(profile, hub):
    home = profile.parent / "hub"
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "DAGSTER_HOME": str(home / "dagster")}
    command = [sys.executable, "-m", "pipelines.cli", "run", "--profile", str(profile)]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True)
    assert run.returncode == 1 and is_one_line(run.stderr.removeprefix("mobileclip2: ").strip())
    assert not list(profile.parent.rglob("manifest.json"))
