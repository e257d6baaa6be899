"""An S3 server over HTTP on loopback, behind a proxy with the faults of networks and busy stores.

Like the real S3, it refuses a request whose time is more than 15 minutes off.
"""

from __future__ import annotations

import http.client
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, get_args

import boto3
from moto.server import ThreadedMotoServer

Fault = Literal[
    "503",  # SlowDown, as when throttling
    "500",
    "expired",  # ExpiredToken
    "reset",  # the connection is reset before the request is processed
    "lost",  # the request is processed, then the connection is reset without a response
    "silent",  # no answer until the client gives up
    "cut",  # half the body, then the connection is closed
    "cut by a reset",
    "stalled",  # half the body, then silence until the client gives up
    "slow",  # the whole body, but in slow pieces
    "altered",  # one byte of the body that is read
    "altered upload",  # one byte of the body that is stored
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

SILENCE_SECONDS = 1.5
"""longer than the read timeout of the tests' clients"""
DRIP_SECONDS = 0.05
SKEW_SECONDS = 15 * 60
CODES: dict[str, tuple[int, str]] = {
    "503": (503, "SlowDown"),
    "500": (500, "InternalError"),
    "expired": (400, "ExpiredToken"),
}


@dataclass(frozen=True)
class Request:
    number: int
    """counted from 1 since the last :meth:`FaultyS3.reset`"""
    method: str
    path: str
    """``/bucket/key``, with the query string"""
    identity: str
    """access key that signs the request"""


@dataclass
class FaultyS3:
    """Use it as a context manager. ``env`` has the environment variables with which boto3 connects to it."""

    fault: Callable[[Request], Fault | None] = lambda request: None

    def __enter__(self) -> FaultyS3:
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self.moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.moto.start()
        self.behind: tuple[str, int] = self.moto.get_host_and_port()
        self.server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.moto.stop()

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def create_bucket(self, name: str) -> None:
        names = {"AWS_ACCESS_KEY_ID": "aws_access_key_id", "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key"}
        keys = {names[name]: value for name, value in self.env.items() if name in names}
        url = "http://{}:{}".format(*self.behind)
        boto3.session.Session().client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(
            Bucket=name
        )

    def reset(self, fault: Callable[[Request], Fault | None] = lambda request: None) -> None:
        """Count requests from 1 again, with other faults."""
        with self.lock:
            self.requests.clear()
            self.fault = fault

    def note(self, method: str, path: str, identity: str) -> Fault | None:
        with self.lock:
            request = Request(len(self.requests) + 1, method, path, identity)
            self.requests.append(request)
            return self.fault(request)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        pass  # a client was killed, or gave up


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyS3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each body waits 40 ms for the acknowledgment of its headers

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        identity = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        fault = self.proxy.note(self.command, self.path, identity)
        if fault in CODES:
            return self._refuse(*CODES[fault])
        if self._skew() > SKEW_SECONDS:
            return self._refuse(403, "RequestTimeTooSkewed")
        if fault == "reset":
            return self._reset()
        if fault == "silent":
            self.proxy.closing.wait(SILENCE_SECONDS)
            return self._reset()
        if fault == "altered upload":
            body = altered(body)
        status, headers, data = self._forward(body)
        if fault == "lost":
            return self._reset()
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(data) // 2
        if fault == "altered":
            data = altered(data)
        if fault in {"cut", "cut by a reset", "stalled"} and data:
            self.wfile.write(data[:half])
            if fault == "stalled":
                self.proxy.closing.wait(SILENCE_SECONDS)
            self.close_connection = True
            if fault == "cut by a reset":
                self._reset()
        elif fault == "slow":
            for start in range(0, len(data), max(1, len(data) // 8)):
                self.wfile.write(data[start : start + max(1, len(data) // 8)])
                time.sleep(DRIP_SECONDS)
        else:
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        behind = http.client.HTTPConnection(*self.proxy.behind)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {"expect", "connection"}}
        behind.request(self.command, self.path, body, headers)
        answer = behind.getresponse()
        data = answer.read()
        kept = [
            (name, value)
            for name, value in answer.getheaders()
            if name.lower() not in {"connection", "transfer-encoding"}
        ]
        if not any(name.lower() == "content-length" for name, _ in kept):
            kept.append(("Content-Length", str(len(data))))
        behind.close()
        return answer.status, kept, data

    def _skew(self) -> float:
        stated = self.headers.get("X-Amz-Date")
        if stated is None:
            return 0.0
        asked = datetime.strptime(stated, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return abs((datetime.now(UTC) - asked).total_seconds())

    def _refuse(self, status: int, code: str) -> None:
        data = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a fault of the test</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Date", self.date_time_string())
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, *_: object) -> None:
        pass


def altered(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data
