"""Names that are made up to lead elsewhere name one file in their folder and nothing else, from scan to purify."""

import hashlib
import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example
from hostile_names import SHARD_NAMES
from s3_server import S3Server
from test_shard_scorer import score_everything

from finf_core.errors import InputError
from finf_core.report.html import render_report
from tasks import storage
from tasks.corpus import list_shards
from tasks.job import ScanJob
from tasks.publish_report import publish_report
from tasks.purify import new_names, purify
from tasks.read_report import read_report
from tasks.show_row import read_row

AS_MANY = len(SHARD_NAMES)


def shard_bytes(name: str) -> bytes:
    buffer = io.BytesIO()
    text = scan_example.texts(1, seed=SHARD_NAMES.index(name))[0]
    texts = pa.array([text, scan_example.LEAK if name == "*.parquet" else f"{text} {text}"])
    pq.write_table(pa.table({"id": [name] * 2, "text": texts}), buffer)
    return buffer.getvalue()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A shard of each name, and files beside the folder that nobody may touch."""
    folder = tmp_path / "corpora" / "corpus"
    folder.mkdir(parents=True)
    for name in SHARD_NAMES:
        (folder / name).write_bytes(shard_bytes(name))
    (folder.parent / "up.parquet").write_bytes(shard_bytes("plain.parquet"))
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def scanned(corpus: str, folder: Path, model: Path) -> ScanJob:
    queries = scan_example.write_queries(str(folder / "queries.parquet"))
    job = score_everything(scan_example.scan_spec(model, corpus, queries), folder / "store")
    publish_report(job, [])
    return job


def test_a_local_corpus_of_hostile_names_is_scanned_reported_and_purified_inside_its_folders(
    corpus: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = tree(corpus.parent)
    job = scanned(str(corpus), tmp_path, tiny_checkpoint)
    report = read_report(job.run_uri)
    best = report["queries"][0]["top"][0]
    assert (best["shard"], best["row"], best["document_id"]) == (str(corpus / "*.parquet"), 1, "*.parquet")
    assert report["summary"]["num_rows"] == 2 * AS_MANY
    assert {str(row["shard"]) for query in report["queries"] for row in query["top"]} <= {
        str(corpus / name) for name in SHARD_NAMES
    }
    render_report(report)

    found = purify(job.run_uri, str(tmp_path / "clean"))
    assert found.num_rows == 2 * AS_MANY
    clean = tree(tmp_path / "clean")
    assert clean.keys() == {*SHARD_NAMES, "manifest.json", "removed.parquet"}
    changed = {name for name in SHARD_NAMES if clean[name] != before[f"corpus/{name}"]}
    assert changed == {line["document_id"] for line in found.removed}
    assert "*.parquet" in changed
    assert tree(corpus.parent) == before
    assert {path.name for path in tmp_path.iterdir()} == {"corpora", "queries.parquet", "store", "clean"}


def test_a_row_of_each_shard_is_the_row_of_that_shard(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SHARD_NAMES:
        assert read_row(str(corpus / name), 0)["id"] == name
        assert storage.stat_object(str(corpus / name)).size_bytes == (corpus / name).stat().st_size
    monkeypatch.chdir(corpus)
    for name in SHARD_NAMES:
        relative = f"./{name}" if name.startswith("~") else name  # a shell's own sign for a home
        assert read_row(relative, 0)["id"] == name


def put_shards(server: S3Server, bucket_uri: str, names: list[str]) -> list[str]:
    """By a client that is not under test; returns the keys that the server made of them."""
    client, bucket = server.client(), bucket_uri.removeprefix("s3://")
    for name in names:
        client.put_object(Bucket=bucket, Key=f"corpus/{name}", Body=shard_bytes(name))
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
    client.close()
    return keys


def test_on_s3_a_hostile_key_is_that_object_and_its_copy_stays_below_the_folder(
    s3_bucket: str, s3_server: S3Server, tmp_path: Path
) -> None:
    keys = put_shards(s3_server, s3_bucket, SHARD_NAMES)
    spec = scan_example.scan_spec("model", f"{s3_bucket}/corpus", "queries").corpus
    shards = list_shards(spec)
    assert sorted(shard.uri for shard in shards) == sorted(f"{s3_bucket}/{key}" for key in keys)
    for shard in shards:
        [name] = {read_row(shard.uri, row)["id"] for row in (0, 1)}
        assert shard.uri == f"{s3_bucket}/corpus/{name}".replace("\\", "/")  # the server's way with backslashes
        assert storage.stat_object(shard.uri)[1:] == (shard.size_bytes, shard.etag)
        assert storage.read_bytes(shard.uri) == shard_bytes(name)
    storage.download_folder(f"{s3_bucket}/corpus", tmp_path / "below" / "copy")
    copied = {path.relative_to(tmp_path / "below" / "copy").as_posix() for path in (tmp_path).rglob("*.parquet")}
    assert copied == {key.removeprefix("corpus/") for key in keys}


def test_a_key_that_would_be_read_as_another_object_is_refused(s3_bucket: str) -> None:
    storage.publish_bytes(f"{s3_bucket}/a.parquet", b"another")
    for read in (storage.read_bytes, storage.read_table, storage.exists, storage.stat_object):
        with pytest.raises(InputError, match="versionId"):
            read(f"{s3_bucket}/a.parquet?versionId=1")


@pytest.mark.parametrize(
    "names",
    [
        ["s3://bucket/corpus/a.parquet", "s3://bucket/corpus/../b.parquet"],
        ["s3://bucket/corpus/a.parquet", "s3://bucket/corpus//a.parquet"],
        ["s3://bucket/corpus/a.parquet", "s3://bucket/corpus/./a.parquet"],
        ["/data/a.parquet", "/data/x/../../../etc/b.parquet"],
        ["/data/manifest.json", "/data/b.parquet"],
    ],
)
def test_a_new_shard_never_leaves_its_folder_or_takes_the_name_of_another(names: list[str]) -> None:
    with pytest.raises(InputError, match="rename the shard"):
        new_names(names)


def test_names_that_only_look_like_a_way_out_are_kept() -> None:
    names = ["..", "...", "%2e%2e", "..%2F", "．．", "..／", "a..b"]  # as parts of longer names
    uris = [f"/data/corpus/x{name}/{name}x.parquet" for name in names]
    assert list(new_names(uris).values()) == [uri.removeprefix("/data/corpus/") for uri in uris]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a b", "a\n", "é", "a\0", "-", "a" * 101])
def test_a_run_is_named_by_letters_and_digits_only(name: str) -> None:
    spec = scan_example.scan_spec("model", "corpus", "queries")
    with pytest.raises(InputError, match="name: "):
        scan_example.renamed(spec, name)
    assert scan_example.renamed(spec, "a" * 100).name == "a" * 100


# --- links ---


def test_a_link_to_a_shard_is_that_shard_though_it_lies_elsewhere(corpus: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    os.symlink(corpus / "plain.parquet", linked / "link.parquet")
    os.symlink(corpus.parent / "up.parquet", linked / "other.parquet")
    for pattern in (linked, linked / "*.parquet", linked / "**" / "*.parquet"):
        found = storage.list_objects(str(pattern))
        assert [Path(item.uri).name for item in found] == ["link.parquet", "other.parquet"]
        assert found[0].size_bytes == (corpus / "plain.parquet").stat().st_size


@pytest.mark.parametrize("target", [".", "..", "elsewhere"])
def test_a_link_to_a_folder_is_refused_by_name_and_a_circle_ends(corpus: Path, target: str) -> None:
    (corpus / "elsewhere").mkdir()
    os.symlink(target, corpus / "deep")
    with pytest.raises(InputError, match=r"deep is a link to a folder, which is not followed; name that folder"):
        storage.list_objects(str(corpus))
    assert len(storage.list_objects(str(corpus / "**" / "*.parquet"))) == AS_MANY


def test_a_link_that_leads_nowhere_is_refused_by_name(corpus: Path) -> None:
    os.symlink("nowhere.parquet", corpus / "lost.parquet")
    os.symlink("circle.parquet", corpus / "circle.parquet")
    for name in ("lost", "circle"):
        with pytest.raises(InputError, match=rf"{name}\.parquet is a link that leads nowhere"):
            storage.list_objects(str(corpus))
        (corpus / f"{name}.parquet").unlink()
        if name == "lost":
            continue
        assert len(storage.list_objects(str(corpus))) == AS_MANY
