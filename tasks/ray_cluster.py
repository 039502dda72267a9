"""Start Ray on loopback, or join the cluster at an address; leave what others started alone."""

import logging
import os
import socket
from typing import Any

from finf_core.errors import InputError

ANSWER_SECONDS = 10


def connect(address: str | None, object_store_memory_bytes: int) -> bool:
    """Make sure that this process is a Ray driver. Returns whether it was this call that made it one.

    Raises:
        InputError: nothing answers at the address.
    """
    _set_environment(is_local := address in (None, "local"))
    import ray  # reads its environment when it is imported

    if ray.is_initialized():
        return False
    own_cluster: dict[str, Any] = {"include_dashboard": False, "object_store_memory": object_store_memory_bytes}
    options = {"address": "local", **own_cluster} if is_local else {"address": _answering(address or "")}
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise _no_answer(address) from error
    return True


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends with this."""
    import ray

    ray.shutdown()


def _set_environment(is_local: bool) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; it warns otherwise
    if is_local:  # a "cluster" that may span machines listens on all interfaces
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _answering(address: str) -> str:
    """The address, if there is a listener; Ray itself would try for over a minute."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            raise _no_answer(address) from error
    return address


def _no_answer(address: str | None) -> InputError:
    return InputError(f"no Ray cluster answers at {address}; check --ray-address")
