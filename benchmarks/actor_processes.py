"""The processes of the actors of a scan, from the process table."""

from contextlib import suppress

import psutil  # type: ignore[import-untyped]


def actor_processes(driver_pid: int | None = None) -> list[psutil.Process]:
    """Ray's workers below a driver (this process, unless another is named) that host an actor of ours."""
    found = []
    for process in psutil.Process(driver_pid).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if "ray::ActorHost" in " ".join(process.cmdline()):
                found.append(process)
    return found
