"""A real PostgreSQL of the tests' own, on loopback, with a password; always stopped, even when the tests are killed."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from s3_server import UNTIL_STDIN_CLOSES, free_ports

START_SECONDS = 30
DEBIAN = Path("/usr/lib/postgresql")  # /VERSION/bin, not on the PATH


class Postgres(NamedTuple):
    port: int
    password: str

    def ask(self, sql: str) -> str:
        """What psql, which knows nothing of Prefect, answers; one line a row."""
        command = [_program("psql"), "--host=127.0.0.1", f"--port={self.port}", "--username=prefect", "prefect"]
        done = subprocess.run(
            [*command, "--no-align", "--tuples-only", f"--command={sql}"],
            env={"PGPASSWORD": self.password},
            capture_output=True,
            text=True,
            timeout=30,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """An empty database `prefect` of the user `prefect`."""
    with tempfile.TemporaryDirectory(prefix="finf-pg-") as name:
        folder, (port,), password = Path(name), free_ports(1), secrets.token_hex(16)
        shutil.chown(folder, _owner())
        (folder / "password").write_text(password)
        shutil.chown(folder / "password", _owner())
        flags = ["--username=prefect", f"--pwfile={folder}/password", "--auth=scram-sha-256", "--no-sync"]
        subprocess.run(
            [_program("initdb"), f"--pgdata={folder}/data", *flags],
            user=_owner(),
            cwd=folder,
            check=True,
            capture_output=True,
        )
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        command = [_program("postgres"), "-D", f"{folder}/data"]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                ["sh", "-c", UNTIL_STDIN_CLOSES, "postgres", *command],
                user=_owner(),
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            found = Postgres(port, password)
            _create_database(found)
            yield found
        finally:
            with server, suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def _create_database(server: Postgres) -> None:
    """As soon as it can be had."""
    command = [_program("createdb"), "--host=127.0.0.1", f"--port={server.port}", "--username=prefect", "prefect"]
    deadline = time.monotonic() + START_SECONDS
    while True:
        done = subprocess.run(command, env={"PGPASSWORD": server.password}, capture_output=True, text=True)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL did not start: {done.stderr}")
        time.sleep(0.2)


def _owner() -> str | int:
    """PostgreSQL refuses to run as root; its package made a user for it."""
    return "postgres" if os.getuid() == 0 else os.getuid()


def _program(name: str) -> str:
    found = shutil.which(name) or next(map(str, sorted(DEBIAN.glob(f"*/bin/{name}"))), None)
    if found is None:
        raise RuntimeError(f"no `{name}`: apt-get install postgresql")
    return found
