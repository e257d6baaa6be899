"""The client reports servers that are unreachable, hang, or are not Dagster, and protects its token."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mobileclip2.errors import RemoteError
from pipelines import graphql, remote
from pipelines.graphql import TOKEN, Away, Server
from pipelines.remote import RemoteJob, evaluate_remotely, find_job, launch, wait

SECRET = "tok-5up3r"
Answer = Callable[[dict], tuple[int, dict[str, str], bytes]]


@contextmanager
def answering(answer: Answer) -> Iterator[tuple[str, list]]:
    """Yield the address of a server that calls ``answer`` for each request, and the list of its requests."""
    asked: list = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((dict(self.headers), body))
            status, headers, found = answer(body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(found)

        do_GET = do_POST

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def data(**fields: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps({"data": fields}).encode()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, {}, b"<html>hello</html>"), "the answer is not from Dagster ('data' is missing)"),
        ((200, {}, b'{"data": []}'), "the answer is not from Dagster"),
        ((200, {}, b"[1]"), "the answer is not from Dagster"),
        ((200, {}, b"\xff" * 99), "the answer is not from Dagster"),
        ((200, {}, b'{"data": {}}'), "('workspaceOrError' is missing)"),
        ((200, {}, b'{"errors": [{"message": "no \\u001b[31mfield"}]}'), "Dagster cannot answer (no [31mfield)"),
        ((404, {}, b""), "no Dagster server there (HTTP 404)"),
        ((401, {}, b""), f"refused (HTTP 401); set {TOKEN}"),
        ((503, {}, b""), "cannot be reached: HTTP 503"),
        ((302, {"Location": "http://localhost:1/login"}, b""), "redirects to 'http://localhost:1/login', which is not"),
        (data(workspaceOrError={"locationEntries": []}), "no code location has the job 'evaluate'"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-",
)
def test_an_invalid_response_is_reported(answer, message):
    with answering(lambda body: answer) as (address, _), pytest.raises(RemoteError) as raised:
        find_job(Server(address), "evaluate", None)
    assert message in str(raised.value)


def test_a_response_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(graphql, "LARGEST_ANSWER", 1000)
    with answering(lambda body: (200, {}, b" " * 5000)) as (address, _), pytest.raises(RemoteError, match="is larger"):
        Server(address).ask("")


def test_a_silent_server_times_out():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(Away, match="timed out"):
            Server(f"http://127.0.0.1:{silent.getsockname()[1]}").ask("", 0.5)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host", "not an address"),
        ("https://", "not an address"),
        ("https://host:port", "not an address"),
        (f"https://me:{SECRET}@host", "not an address"),
        (f"https://host?token={SECRET}", "not an address"),
        ("http://dagster.example.com", "is not sent unencrypted"),
    ],
)
def test_invalid_addresses_are_refused(address, message):
    with pytest.raises(RemoteError, match=message) as raised:
        Server(address, SECRET)
    assert SECRET not in str(raised.value)


def test_valid_addresses_are_accepted():
    assert Server("dagster.example.com/prod/").run_page("1") == "https://dagster.example.com/prod/runs/1"
    assert Server("http://dagster.example.com").address == "http://dagster.example.com"
    assert Server("http://[::1]:3000", SECRET).address == "http://[::1]:3000"


@pytest.mark.parametrize("token", [f"{SECRET}\n", f"{SECRET} x", f"{SECRET}é"])
def test_an_invalid_token_is_not_printed(token):
    with pytest.raises(RemoteError, match=TOKEN) as raised:
        Server("https://host", token)
    assert SECRET not in str(raised.value)


def test_the_token_is_sent_only_to_the_server(monkeypatch, capsys):
    with answering(lambda body: data()) as (elsewhere, stolen):
        monkeypatch.setenv("http_proxy", elsewhere)
        with (
            answering(lambda body: (307, {"Location": f"{elsewhere}/graphql"}, b"")) as (address, asked),
            pytest.raises(RemoteError) as raised,
        ):
            evaluate_remotely(Server(address, SECRET), "plain", None, None, 1, None)
    assert asked[0][0]["Authorization"] == f"Bearer {SECRET}"
    assert not stolen and SECRET not in str(raised.value) + "".join(capsys.readouterr())


def location(name: str, *jobs: str) -> dict:
    repositories = [{"name": "__repository__", "jobs": [{"name": job} for job in jobs]}]
    return {"name": name, "locationOrLoadError": {"__typename": "RepositoryLocation", "repositories": repositories}}


def broken(name: str) -> dict:
    return {"name": name, "locationOrLoadError": {"__typename": "PythonError", "message": "ProfileError: x\ntrace"}}


@pytest.mark.parametrize(
    ("entries", "named", "message"),
    [
        ([location("a", "evaluate"), location("b", "evaluate")], None, "the job 'evaluate' is in 'a', 'b'; choose one"),
        ([location("a", "evaluate")], "c", "has no code location 'c', it has 'a'; deploy it or correct --location"),
        ([location("a", "evaluate"), broken("b")], "b", "does not load: 'b' (ProfileError: x); fix it"),
        ([location("a", "other")], None, "no code location has the job 'evaluate'; deploy this version there"),
    ],
)
def test_unusable_code_locations_are_reported(entries, named, message):
    with (
        answering(lambda body: data(workspaceOrError={"locationEntries": entries})) as (address, _),
        pytest.raises(RemoteError) as raised,
    ):
        find_job(Server(address), "evaluate", named)
    assert message in str(raised.value)


def test_one_of_several_code_locations_is_selected_by_name():
    entries = [location("a", "evaluate"), broken("b"), location("c", "other", "evaluate")]
    with answering(lambda body: data(workspaceOrError={"locationEntries": entries})) as (address, _):
        assert find_job(Server(address), "evaluate", "c") == RemoteJob("evaluate", "c", "__repository__")


def test_a_refused_launch_is_reported():
    refusal = {"__typename": "RunConfigValidationInvalid", "errors": [{"message": 'unexpected config entry "student"'}]}
    with (
        answering(lambda body: data(launchRun=refusal)) as (address, _),
        pytest.raises(RemoteError, match='the run was refused: unexpected config entry "student"'),
    ):
        launch(Server(address), RemoteJob("evaluate", "a", "r"), {"evaluate_student": {}})


def test_a_launch_without_a_response_points_to_the_runs_page():
    with (
        answering(lambda body: (504, {}, b"")) as (address, _),
        pytest.raises(RemoteError, match=r"It may have launched the run: see http://[^ ]+/runs"),
    ):
        launch(Server(address), RemoteJob("evaluate", "a", "r"), {"evaluate_student": {}})


def run(status: str, *events: dict, more: bool = False) -> dict:
    return {
        "runOrError": {"__typename": "Run", "status": status},
        "logsForRun": {"__typename": "EventConnection", "cursor": "1", "hasMore": more, "events": list(events)},
    }


def test_a_queued_run_is_withdrawn_if_the_daemon_heartbeat_stops(monkeypatch):
    monkeypatch.setattr(remote, "DAEMON_SECONDS", 0.5)
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.1)
    statuses = [{"daemonType": "QUEUED_RUN_COORDINATOR", "required": True, "lastHeartbeatTime": 5.0}]

    def answer(body: dict) -> tuple[int, dict[str, str], bytes]:
        if "daemonHealth" in body["query"]:
            return data(instance={"daemonHealth": {"allDaemonStatuses": statuses}})
        return (
            data(terminateRun={"__typename": "TerminateRunSuccess"})
            if "Stop" in body["query"]
            else data(**run("QUEUED"))
        )

    with (
        answering(answer) as (address, asked),
        pytest.raises(RemoteError, match="was withdrawn: the server has no running daemon"),
    ):
        wait(Server(address), "1", time.monotonic() + 60)
    assert [body["variables"] for _, body in asked if "Stop" in body["query"]] == [{"run": "1"}]


def test_waiting_continues_after_a_server_outage(monkeypatch):
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.05)
    answers = iter(
        [data(**run("STARTED")), (503, {}, b""), (502, {}, b""), data(**run("SUCCESS")), data(**run("SUCCESS"))]
    )
    with answering(lambda body: next(answers)) as (address, _):
        assert wait(Server(address), "1", time.monotonic() + 60).status == "SUCCESS"


def test_waiting_ends_if_the_server_stays_unreachable(monkeypatch):
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(remote, "AWAY_SECONDS", 0.3)
    with (
        answering(lambda body: (503, {}, b"")) as (address, _),
        pytest.raises(RemoteError, match="The run 1 may continue there: call again when the server is back"),
    ):
        wait(Server(address), "1", time.monotonic() + 60)


def test_an_endless_log_does_not_extend_the_wait(monkeypatch):
    monkeypatch.setattr(remote, "REQUEST_SECONDS", 0.5)
    with (
        answering(lambda body: data(**run("STARTED", more=True))) as (address, _),
        pytest.raises(RemoteError, match="in time"),
    ):
        wait(Server(address), "1", time.monotonic() + 0.5)


def test_a_run_of_another_version_without_a_verdict_is_an_error(monkeypatch, capsys):
    entries = [location("a", "evaluate")]

    def answer(body: dict) -> tuple[int, dict[str, str], bytes]:
        if "Locations" in body["query"]:
            return data(workspaceOrError={"locationEntries": entries})
        if "Launch" in body["query"]:
            return data(launchRun={"__typename": "LaunchRunSuccess", "run": {"runId": "1"}})
        return data(**run("SUCCESS"))

    with answering(answer) as (address, _), pytest.raises(RemoteError, match="the run ended without a verdict"):
        evaluate_remotely(Server(address), "plain", None, None, 1, None)
    assert not capsys.readouterr().out


@contextmanager
def dripping(start: bytes, drop: bytes) -> Iterator[str]:
    """Yield the address of a server that never completes its response.

    It sends ``start`` and then ``drop`` every 20 ms. With a nonempty ``drop``, the client's socket does not time out.
    """
    ended = threading.Event()

    def serve(client: socket.socket) -> None:
        with client:
            try:
                client.recv(65536)
                client.sendall(start)
                while not ended.wait(0.02):
                    client.sendall(drop)
            except OSError:
                pass

    def accept() -> None:
        while not ended.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()


DRIPS = {
    "status line": (b"HTTP/1.1 2", b"0"),
    "header": (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "chunk size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "silence": (b"", b""),
}


@pytest.mark.parametrize("drip", DRIPS)
def test_a_request_to_a_slow_server_times_out(drip):
    with dripping(*DRIPS[drip]) as address, pytest.raises(Away, match="timed out"):
        Server(address).ask("", seconds=0.5)


def test_an_incomplete_response_is_an_error(monkeypatch):
    """The exchange itself checks the deadline, without the thread that limits it."""
    monkeypatch.setattr(graphql, "_within", lambda seconds, exchange: exchange())
    with dripping(*DRIPS["length"]) as address, pytest.raises(Away, match="timed out: the answer was not complete"):
        Server(address).ask("", seconds=0.1)


def test_a_call_to_a_slow_server_ends_at_its_deadline(monkeypatch):
    monkeypatch.setattr(graphql, "LAST_SECONDS", 0.2)
    with dripping(*DRIPS["header"]) as address, pytest.raises(Away, match="timed out"):
        evaluate_remotely(Server(address), "pupil", None, None, 0.01, None)
