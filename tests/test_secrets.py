"""Credentials stay in the environment, and nothing of a scan listens to other machines.

One real scan from S3 to S3 with its own Ray and Prefect's embedded server, and what goes wrong around it; then every
place where any of it left something is searched for the keys.
"""

import base64
import io
import os
import secrets
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example
from s3_server import S3Server
from watched_processes import Watched, run_watched

from tasks import storage

FINF = str(Path(sys.executable).parent / "finf")
FOUND_LEAKAGE = 3
WRONG_INPUT = 2
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # five runs of finf with all their servers come first


class Runs(NamedTuple):
    keys: list[str]  # whatever must be nowhere
    bucket: str
    folder: Path  # home, Prefect's home, working directories, what was said
    ray_folder: Path
    scan: Watched
    others: list[Watched]


def contains(data: bytes, key: str) -> bool:
    """As it is, or as base64 (pickled results of Prefect), hexadecimal digits, UTF-16 or part of a URL."""
    plain = key.encode()
    forms = [plain, plain.hex().encode(), key.encode("utf-16-le"), quote_plus(key).encode()]
    forms += [base64.b64encode(bytes(shift) + plain)[-(-shift * 4 // 3) : -4] for shift in range(3)]
    return any(form in data for form in forms)


def holders(runs: Runs, server: S3Server) -> set[str]:
    """The places that hold a key."""
    found = set()
    for name, data in (*files(runs.folder), *files(runs.ray_folder), *objects(runs.bucket, server)):
        found |= {name for key in runs.keys if contains(data, key)}
    for run in (runs.scan, *runs.others):
        found |= {"a command line" for key in runs.keys for line in run.command_lines if contains(line, key)}
    return found


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, its name included; the cells of databases too."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path), str(path).encode() + path.read_bytes()
            if path.suffix == ".db":
                yield str(path), "".join(sqlite3.connect(path).iterdump()).encode()


def objects(bucket: str, server: S3Server) -> Iterator[tuple[str, bytes]]:
    """Every object, by a client that is not under test; the cells of Parquet too."""
    client = server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page["Contents"]:
            data = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            yield item["Key"], item["Key"].encode() + data
            if item["Key"].endswith(".parquet"):
                table = pq.read_table(io.BytesIO(data))
                yield item["Key"], repr((table.schema.metadata, table.to_pylist())).encode()
    client.close()


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """Short: the path of a socket has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="finf-ray-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def runs(
    s3_server: S3Server, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, ray_folder: Path
) -> Iterator[Runs]:
    """A scan that succeeds, `finf status` and `finf plan`, and scans that fail: a bad row, and wrong credentials."""
    folder = tmp_path_factory.mktemp("secrets")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "PREFECT_API"))]:
            patch.delenv(name)
        settings = s3_server.environment | {
            "HOME": str(folder / "home"),
            "PREFECT_HOME": str(folder / "prefect"),
            "RAY_TMPDIR": str(ray_folder),
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        bucket = f"secrets-{secrets.token_hex(6)}"
        client = s3_server.client()
        client.create_bucket(Bucket=bucket)
        client.close()
        uri = f"s3://{bucket}"
        config = _write_config(folder, "scan", uri, scan_example.corpus_texts(), tiny_checkpoint)
        bad = _write_config(folder, "bad", storage.join(uri, "bad"), [*scan_example.texts(8), None], tiny_checkpoint)
        wrong = {name: secrets.token_hex(20) for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")}
        scan = _run(folder, os.environ, "scan", str(config), "--store", f"{uri}/store", "--actors", "1")
        assert scan.code == FOUND_LEAKAGE, scan.stderr
        run_uri = scan.stdout.decode().split("report: ")[1].strip().removesuffix("/report.html")
        others = [
            _run(folder, os.environ, "status", run_uri),
            _run(folder, os.environ, "plan", str(config)),
            _run(folder, os.environ, "scan", str(bad), "--store", f"{uri}/store", "--actors", "1"),
            _run(folder, os.environ | wrong, "scan", str(config), "--store", f"{uri}/store"),
        ]
        keys = [s3_server.secret_key, s3_server.access_key, *wrong.values()]
        yield Runs(keys, bucket, folder, ray_folder, scan, others)


def _write_config(folder: Path, name: str, uri: str, rows: list[str | None], model: Path) -> Path:
    corpus = scan_example.write_shards(storage.join(uri, "corpus"), rows, 2)
    queries = scan_example.write_queries(storage.join(uri, "queries.parquet"))
    config = folder / f"{name}.toml"
    config.write_text(scan_example.CONFIG.format(model=model, corpus=corpus, queries=queries))
    return config


def _run(folder: Path, environment: Any, *arguments: str) -> Watched:
    place = folder / f"in-{secrets.token_hex(3)}"
    place.mkdir()
    return run_watched([FINF, *arguments], environment, place)


def test_the_runs_end_as_they_should(runs: Runs) -> None:
    assert [run.code for run in runs.others] == [0, 0, WRONG_INPUT, WRONG_INPUT]
    assert b"row 3: text is null" in runs.others[2].stderr
    assert b"access denied" in runs.others[3].stderr
    assert all(run.stderr.splitlines()[-1].startswith(b"finf: ") for run in runs.others[2:])


def test_no_key_is_left_anywhere(runs: Runs, s3_server: S3Server) -> None:
    assert holders(runs, s3_server) == set()
    named = b" ".join(runs.scan.command_lines)
    assert all(part in named for part in (b"gcs_server", b"raylet", b"ray::", b"prefect"))  # all were looked at
    kinds = [path.suffix for path in (*runs.folder.rglob("*"), *runs.ray_folder.rglob("*"))]
    assert {".db", ".log"} <= set(kinds)


def test_prefect_keeps_no_text_of_corpus_or_queries(runs: Runs) -> None:
    kept = list(files(runs.folder / "prefect"))
    assert any(b"scan.toml" in data or b"queries.parquet" in data for _, data in kept)  # the parameters are there
    assert [name for name, data in kept if contains(data, scan_example.LEAK)] == []


def test_a_key_would_be_found_in_each_of_these_places(runs: Runs, s3_server: S3Server) -> None:
    key, client = runs.keys[0], s3_server.client()
    planted = [
        runs.folder / "prefect" / "storage" / "result",
        next(runs.ray_folder.rglob("logs")) / "worker.log",
        runs.folder / "home" / "cache",
        next(runs.folder.glob("in-*")) / "stderr",
    ]
    cell, pickled = io.BytesIO(), base64.b64encode(f"x{key}yz".encode())
    pq.write_table(pa.table({"text": [f"a row with {key}"] * 3}), cell, compression="zstd")
    bodies = {"raw": key.encode(), "cell.parquet": cell.getvalue(), "pickled": pickled}
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        path.write_bytes(before + key.encode())
        assert holders(runs, s3_server) == {str(path)}
        path.write_bytes(before)
    for name, body in bodies.items():
        client.put_object(Bucket=runs.bucket, Key=name, Body=body)
        assert holders(runs, s3_server) == {name}
        client.delete_object(Bucket=runs.bucket, Key=name)
    database = runs.folder / "planted.db"
    with sqlite3.connect(database) as connection:
        connection.execute("create table parameters (value text)")
        connection.execute("insert into parameters values (?)", (key,))
    connection.close()
    assert holders(runs, s3_server) == {str(database)}
    database.unlink()
    shown = runs.scan._replace(command_lines={b"worker\0--secret\0" + key.encode()})
    assert holders(runs._replace(scan=shown), s3_server) == {"a command line"}
    client.close()


@pytest.mark.parametrize("where", ["store", "ray-address", "corpus"])
def test_a_password_in_an_address_is_refused_before_prefect_or_anybody_else_writes_it_down(
    where: str, tmp_path: Path
) -> None:
    password, home = secrets.token_hex(20), tmp_path / "prefect"
    address = f"s3://user:{password}@bucket/x"
    config = tmp_path / "scan.toml"
    corpus = address if where == "corpus" else "corpus"
    config.write_text(scan_example.CONFIG.format(model="model", corpus=corpus, queries="q.jsonl"))
    arguments = [] if where == "corpus" else [f"--{where}", address]
    run = run_watched([FINF, "scan", str(config), *arguments], os.environ | {"PREFECT_HOME": str(home)}, tmp_path)
    assert run.code == WRONG_INPUT
    assert b"must not carry a user name or a password" in run.stderr
    assert not contains(run.stdout + run.stderr, password)
    assert not [name for name, data in files(home) if contains(data, password)]


def test_every_socket_of_a_scan_listens_on_loopback_only(runs: Runs) -> None:
    assert len(runs.scan.listening) >= 3  # Ray's control service, its node, Prefect's server
    assert runs.scan.open_to_others == set()


LISTENER = """
import socket, sys, time
kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[sys.argv[1]]
with socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET, kind) as listener:
    listener.bind((sys.argv[2], 0))
    kind == socket.SOCK_STREAM and listener.listen()
    time.sleep(2)
"""


@pytest.mark.parametrize(
    ("protocol", "address", "is_open"),
    [("tcp", "0.0.0.0", True), ("tcp", "::", True), ("udp", "0.0.0.0", True), ("tcp", "127.0.0.1", False)],
)
def test_a_socket_that_listens_to_other_machines_would_be_found(
    protocol: str, address: str, is_open: bool, tmp_path: Path
) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LISTENER!r}, *sys.argv[1:]])"
    seen = run_watched([sys.executable, "-c", child, protocol, address], os.environ, tmp_path)
    assert {found[:2] for found in seen.listening} == {(protocol, address)}, seen.stderr
    assert bool(seen.open_to_others) == is_open
