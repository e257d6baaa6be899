"""GraphQL client of a Dagster server. It needs only the standard library, so that CI can call it without an installation."""

from __future__ import annotations

import ipaddress
import json
import math
import sys
import threading
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from mobileclip2.errors import RemoteError

TOKEN = "MOBILECLIP2_DAGSTER_TOKEN"
"""environment variable that holds the server's token"""
ADDRESS = "MOBILECLIP2_DAGSTER"
"""environment variable of a run: address of the webserver of its own Dagster; by default, that of ``dagster dev``"""

REQUEST_SECONDS = 30.0
LAST_SECONDS = 2.0
"""time limit of a request that begins after the deadline, which withdraws a run"""
LARGEST_ANSWER = 16 * 2**20

T = TypeVar("T")


class Away(RemoteError):
    """The server did not answer. The request may succeed later."""


class Server:
    """A Dagster webserver. The token is sent only to it.

    Raises:
        RemoteError: The address is not valid, or the token would be sent unencrypted.
    """

    def __init__(self, address: str, token: str = "") -> None:
        try:
            parts = urlsplit(address if "://" in address else f"https://{address}")
            host, valid = parts.hostname, parts.scheme in {"http", "https"} and parts.port != 0
        except ValueError:
            host, valid = None, False
        if not valid or not host or parts.username is not None or parts.query or parts.fragment:
            # the message does not repeat the address, which may contain a password
            raise RemoteError(f"--dagster: not an address such as https://dagster.example.com; a token goes in {TOKEN}")
        self.address = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        local = _is_loopback(host)
        if token and parts.scheme == "http" and not local:
            raise RemoteError(f"{self.address}: the token in {TOKEN} is not sent unencrypted; use an https address")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise RemoteError(
                f"{TOKEN}: it contains spaces, line ends or other characters that a token cannot contain; set it again"
            )
        self._headers = {"Content-Type": "application/json"}
        if token and host.endswith(".dagster.cloud"):
            self._headers["Dagster-Cloud-Api-Token"] = token
        elif token:
            self._headers["Authorization"] = f"Bearer {token}"
        self.deadline = math.inf
        """time of the monotonic clock after which requests get only :data:`LAST_SECONDS`"""
        self._opener = build_opener(_NoRedirects, *([ProxyHandler({})] if local else []))

    def run_page(self, run: str) -> str:
        """Return the address of a run's page."""
        return f"{self.address}/runs/{run}"

    def ask(self, query: str, seconds: float = REQUEST_SECONDS, **variables: object) -> dict[str, Any]:
        """Send a query and return the ``data`` of the answer. ``seconds`` limits the time.

        Raises:
            Away: The server did not answer.
            RemoteError: The server refused, or the answer is not from Dagster.
        """
        body = json.dumps({"query": query, "variables": variables}).encode()
        seconds = min(seconds, max(LAST_SECONDS, self.deadline - time.monotonic()))
        answer = self._post(Request(f"{self.address}/graphql", body, self._headers), seconds)
        try:
            record = json.loads(answer)
        except ValueError:
            record = None
        errors = record.get("errors") if isinstance(record, dict) else None
        if isinstance(errors, list) and errors:
            message = clean(str(errors[0].get("message") if isinstance(errors[0], dict) else errors[0]))
            raise RemoteError(f"{self.address}: Dagster cannot answer ({message[:500]}); use Dagster 1.13")
        return self.take(record, "data", dict)

    def take(self, record: object, name: str, kind: type[T]) -> T:
        """Return a field of an answer after checking its type.

        Raises:
            RemoteError: The field is missing or has another type.
        """
        value = record.get(name) if isinstance(record, dict) else None
        if not isinstance(value, kind):
            raise RemoteError(
                f"{self.address}: the answer is not from Dagster ('{name}' is missing); correct --dagster"
            )
        return value

    def _post(self, request: Request, seconds: float) -> bytes:
        try:
            return _within(seconds, lambda: self._exchange(request, seconds))
        except HTTPError as error:
            error.close()
            raise self._refusal(error) from None
        except URLError as error:
            raise self._away(error.reason) from None
        except (OSError, HTTPException) as error:
            raise self._away(error) from None

    def _exchange(self, request: Request, seconds: float) -> bytes:
        until = time.monotonic() + seconds
        with self._opener.open(request, timeout=seconds) as response:
            body = bytearray()
            while chunk := response.read1(65536):
                body += chunk
                if len(body) > LARGEST_ANSWER:
                    raise RemoteError(
                        f"{self.address}: the answer is larger than any answer of Dagster; correct --dagster"
                    )
                if time.monotonic() > until:  # a part must not look like an answer
                    raise _late(seconds)
            return bytes(body)

    def _away(self, reason: object) -> Away:
        cause = clean(str(reason)) or type(reason).__name__
        return Away(
            f"{self.address}: cannot be reached: {cause}; check that the server runs and that the address is right"
        )

    def _refusal(self, error: HTTPError) -> RemoteError:
        if error.code in {429, 502, 503, 504}:  # of a proxy while the server behind it restarts
            return self._away(f"HTTP {error.code}")
        if error.code in {401, 403}:
            return RemoteError(
                f"{self.address}: refused (HTTP {error.code}); set {TOKEN} to a token that may launch runs"
            )
        if 300 <= error.code < 400:
            target = clean(error.headers.get("Location") or "")[:200]
            return RemoteError(
                f"{self.address}: redirects to '{target}', which is not followed; use the final address, and set {TOKEN} "
                "if that is a login page"
            )
        return RemoteError(f"{self.address}: no Dagster server there (HTTP {error.code}); correct --dagster")


def _within(seconds: float, exchange: Callable[[], bytes]) -> bytes:
    """Call ``exchange`` in a thread, because a socket's timeout begins again with each byte.

    Raises:
        TimeoutError: It has not returned in time. The thread ends with the process.
    """
    future: Future[bytes] = Future()

    def run() -> None:
        try:
            future.set_result(exchange())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        raise _late(seconds) from None


def _late(seconds: float) -> TimeoutError:
    return TimeoutError(f"timed out: the answer was not complete after {seconds:.1f} s")


class _NoRedirects(HTTPRedirectHandler):
    """Follow no redirects, so that the token goes only to the given host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def clean(text: str) -> str:
    """Remove control characters, which could change the terminal: the text comes from another machine."""
    return "".join(char for char in text if char in "\n\t" or not unicodedata.category(char).startswith("C"))


def first_line(text: object) -> str:
    """Return the first line of a text from the server, without control characters."""
    lines = clean(str(text or "")).strip().splitlines()
    return lines[0][:500] if lines else ""


def log(text: str) -> None:
    """Print progress to stderr, because stdout has the results."""
    print(f"mobileclip2: {text}", file=sys.stderr, flush=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
