"""An HTTP proxy on loopback that stands before an S3 server and does to requests what networks and servers do.

`faults` decides for each request: a function of (method, path) that returns a Fault, or None to let it pass.
"""

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "transfer-encoding", "content-length"}
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
LATENCY_SECONDS = 0.5
DRIP_SECONDS = 0.05  # between pieces of a slowed-down body
NUM_DRIPS = 10


class Fault(Enum):
    LATENCY = "latency"
    SERVER_ERROR = "500"
    SLOW_DOWN = "503"
    RESET = "reset in the middle of a body"
    TRUNCATED = "truncated body"
    DRIP = "slow body"
    EXPIRED = "expired credentials"
    REFUSED = "connection broken before an answer"
    DONE_UNTOLD = "done, and the answer lost"


Decide = Callable[[str, str], Fault | None]


class FaultProxy:
    def __init__(self, endpoint: str, faults: Decide = lambda method, path: None) -> None:
        self.faults = faults
        self.num_of: Counter[Fault] = Counter()
        self.heard: list[tuple[str, dict[str, str]]] = []  # method and headers of every request
        target = urlsplit(endpoint).netloc
        proxy = self

        class Handler(_Handler):
            server_address, owner = target, proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_address: str
    owner: FaultProxy

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.heard.append((self.command, {name.lower(): value for name, value in self.headers.items()}))
        fault = self.owner.faults(self.command, self.path)
        if fault is not None:
            self.owner.num_of[fault] += 1
        if fault is Fault.LATENCY:
            time.sleep(LATENCY_SECONDS)
        if fault is Fault.REFUSED:
            return self._break()
        if fault in (Fault.SERVER_ERROR, Fault.SLOW_DOWN, Fault.EXPIRED):
            status, text = {
                Fault.SERVER_ERROR: (500, b""),
                Fault.SLOW_DOWN: (503, SLOW_DOWN),
                Fault.EXPIRED: (400, EXPIRED),
            }[fault]
            return self._answer(status, {"Content-Type": "application/xml"}, text)
        status, headers, answer = self._forward(body)
        if fault is Fault.DONE_UNTOLD:
            return self._break()
        if fault in (Fault.RESET, Fault.TRUNCATED) and answer:
            self._head(status, headers, len(answer))
            self.wfile.write(answer[: len(answer) // 2])
            self.wfile.flush()
            return self._break(reset=fault is Fault.RESET)
        return self._answer(status, headers, answer, slowly=fault is Fault.DRIP)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server_address, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP}
            if self.command == "HEAD":
                kept["Content-Length"] = response.getheader("Content-Length") or "0"
            return response.status, kept, response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, slowly: bool = False) -> None:
        self._head(status, headers, len(body))
        if self.command == "HEAD":
            return
        size = -(-len(body) // NUM_DRIPS) if slowly and body else max(1, len(body))
        for start in range(0, len(body), size):
            time.sleep(DRIP_SECONDS if slowly else 0)
            self.wfile.write(body[start : start + size])

    def _head(self, status: int, headers: dict[str, str], num_bytes: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(num_bytes))
        self.end_headers()

    def _break(self, reset: bool = True) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
