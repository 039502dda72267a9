"""What every process of a program shows to the machine while it runs: its command lines and the sockets it opens."""

import os
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

import psutil

MARK = "FINF_WATCHED"  # in the environment of the program, and so of all that it starts, wherever that hangs itself up
LOOK_SECONDS = 0.5


class Watched(NamedTuple):
    code: int
    stdout: bytes
    stderr: bytes
    command_lines: set[bytes]  # as the kernel shows them to any user
    listening: set[tuple[str, str, int]]  # protocol, address, port

    @property
    def open_to_others(self) -> set[tuple[str, str, int]]:
        return {socket for socket in self.listening if not _is_loopback(socket[1])}


def run_watched(command: Sequence[str], environment: Mapping[str, str], folder: Path, seconds: float = 240) -> Watched:
    """Run a program in a folder to its end and look at all its processes again and again."""
    mark = secrets.token_hex(8)
    command_lines: set[bytes] = set()
    listening: set[tuple[str, str, int]] = set()
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as error:
        program = subprocess.Popen(
            command, env={**environment, MARK: mark}, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=error
        )
        deadline = time.monotonic() + seconds
        while program.poll() is None:
            if time.monotonic() > deadline:
                program.kill()
            ours = _marked(mark)
            for process in ours:
                with suppress(OSError):
                    command_lines.add(Path(f"/proc/{process}/cmdline").read_bytes())
            listening |= _listening(ours)
            time.sleep(LOOK_SECONDS)
    said = ((folder / name).read_bytes() for name in ("stdout", "stderr"))
    return Watched(program.returncode, *said, command_lines, listening)


def _is_loopback(address: str) -> bool:
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


def _marked(mark: str) -> set[int]:
    """The processes that inherited the mark."""
    found = set()
    wanted = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.add(int(name))
    return found


def _listening(processes: set[int]) -> set[tuple[str, str, int]]:
    """TCP sockets that listen, and UDP sockets that would take a packet from anybody."""
    found = set()
    for each in psutil.net_connections("inet"):
        if each.pid not in processes:
            continue
        protocol = "udp" if each.type.name == "SOCK_DGRAM" else "tcp"
        if each.status == psutil.CONN_LISTEN or (protocol == "udp" and each.laddr and not each.raddr):
            found.add((protocol, each.laddr.ip, each.laddr.port))
    return found
