"""Start Ray on loopback, or join the cluster at an address; leave what others started alone."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finf_core.errors import InputError

ANSWER_SECONDS = 10


def connect(address: str | None, object_store_memory_bytes: int) -> bool:
    """Make sure that this process is a Ray driver. Returns whether it was this call that made it one.

    Raises:
        InputError: nothing answers at the address, or a cluster of another Ray or Python.
    """
    if is_remote := address not in (None, "local"):
        _refuse_silence(str(address))
    _set_environment(is_remote)
    import ray  # reads its environment when it is imported

    if ray.is_initialized():
        return False
    own_cluster: dict[str, Any] = {"include_dashboard": False, "object_store_memory": object_store_memory_bytes}
    options = {"address": address} if is_remote else {"address": "local", **own_cluster}
    with _same_sigterm():
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise _no_answer(address) from error
        except RuntimeError as error:
            if "Version mismatch" not in str(error):
                raise
            raise InputError(f"--ray-address {address}: {' '.join(str(error).split())}") from error
    ray._private.worker._worker_logs_enabled = False  # what it prints of dead actors goes to standard output
    return True


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends with this."""
    import ray

    ray.shutdown()


def head_answers() -> bool:
    """Whether the head of the cluster that this process is a driver of still listens."""
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return _listens(host, int(port))


def _set_environment(is_remote: bool) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not is_remote:  # a "cluster" that may span machines listens on all interfaces
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 lets anything else on the machine stop a scan


@contextmanager
def _same_sigterm() -> Iterator[None]:
    """What a SIGTERM does stays what it was: Ray's own handlers print a stack trace and abort."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGTERM, handler)


def _refuse_silence(address: str) -> None:
    """Ray itself would try for more than a minute before it says that nothing listens there."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit() and not _listens(host, int(port)):
        raise _no_answer(address)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def _no_answer(address: str | None) -> InputError:
    return InputError(
        f"no Ray cluster answers at {address}; check --ray-address, and the token if it asks for one (RAY_AUTH_MODE)"
    )
