"""A TCP proxy on loopback that counts what passes and can break a connection after so many bytes."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK_BYTES = 16_384


class CuttingProxy:
    """Forwards to an endpoint. Both sides of a connection are closed when one of the limits is reached.

    `on_cut` is called before the closing, so that a writer can be killed in the middle of its write.
    """

    def __init__(
        self,
        endpoint: str,
        max_sent_bytes: int | None = None,
        max_received_bytes: int | None = None,
        on_cut: Callable[[], None] = lambda: None,
    ) -> None:
        parts = urlsplit(endpoint)
        self._target = (parts.hostname, parts.port)
        self._limits = {"sent": max_sent_bytes, "received": max_received_bytes}
        self._on_cut = on_cut
        self.num_bytes = {"sent": 0, "received": 0}  # by the client, over all connections
        self.num_cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._is_shut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        """As if the server had gone: every connection breaks off, and a new one is closed at once."""
        self._is_shut = True
        _close(*self._open)

    def open(self) -> None:
        self._is_shut = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        _close(self._listener, *self._open)

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                if self._is_shut:
                    _close(client)
                    continue
                server = socket.create_connection(self._target)
                self._open += [client, server]
                for source, target, direction in ((client, server, "sent"), (server, client, "received")):
                    threading.Thread(target=self._forward, args=(source, target, direction), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        limit, forwarded = self._limits[direction], 0
        with suppress(OSError):  # the other side has closed
            while chunk := source.recv(CHUNK_BYTES):
                forwarded += len(chunk)
                self.num_bytes[direction] += len(chunk)
                if limit is not None and forwarded > limit:
                    target.sendall(chunk[: len(chunk) // 2])
                    self.num_cuts += 1
                    self._on_cut()
                    break
                target.sendall(chunk)
        _close(source, target)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
