"""Small Parquet files that decode to gigabytes, and footers that lie, end in one line and in bounded memory.

The limit is 16 MiB here instead of two GiB, so that the files need not be large.
"""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parquet_footer as footer
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arrow_peak import arrow_peak_bytes

from finf_core.errors import InputError
from finf_core.spec import CorpusSpec
from tasks import guarded_parquet, guarded_read, storage
from tasks.corpus import CorpusRow, list_shards, plan_units, read_unit
from tasks.show_row import read_row

LIMIT, PEAK = 16 * 2**20, 40 * 2**20
TEXTS = [f"row {row} of the corpus" for row in range(100)]


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_read, "MAX_GROUP_BYTES", LIMIT)


def parquet_bytes(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    options = {"compression": "zstd", "row_group_size": 10**9, "store_schema": False} | options
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def read_shard(path: Path, column: str = "text", key: str = "text_column") -> list[CorpusRow]:
    corpus = CorpusSpec(path=str(path), **{key: column})
    return [row for unit in plan_units(list_shards(corpus)) for rows in read_unit(unit, corpus) for row in rows]


def repeated_text() -> bytes:
    """64 MB of pages that are one letter, honestly declared."""
    return parquet_bytes({"text": ["a" * 10**6] * 64}, use_dictionary=False)


def named_text() -> bytes:
    """A string of 1 MB in the dictionary, named by 2,000 rows: 2 GB."""
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, np.int32)), pa.array(["b" * 10**6]))
    return parquet_bytes({"text": names}, dictionary_pagesize_limit=2**30)


def named_messages() -> bytes:
    """The same in one chat of 2,000 messages."""
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, np.int32)), pa.array(["b" * 10**6]))
    messages = pa.StructArray.from_arrays([pa.array(["user"] * 2000), names], ["role", "content"])
    chats = pa.ListArray.from_arrays(pa.array([0, 2000], pa.int32()), messages)
    return parquet_bytes({"text": chats}, dictionary_pagesize_limit=2**30)


def shared_beginnings() -> bytes:
    """2,000 strings of 1 MB that differ from the one before by nothing: in this encoding only the first is written."""
    return parquet_bytes(
        {"text": ["c" * 10**6] * 64}, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}
    )


def equal_tokens() -> bytes:
    """A list of 8 million equal token ids, written as one run."""
    ids = pa.array(np.zeros(8 * 10**6, np.int32))
    return parquet_bytes({"text": pa.LargeListArray.from_arrays(pa.array([0, len(ids)], pa.int64()), ids)})


BOMBS = [
    (repeated_text, "text_column", "text"),
    (named_text, "text_column", "text"),
    (named_messages, "messages_column", "text.list.element.content"),
    (shared_beginnings, "text_column", "text"),
    (equal_tokens, "tokens_column", "text.list.element"),
]


@pytest.mark.parametrize(("make", "key", "column"), BOMBS, ids=lambda each: getattr(each, "__name__", None))
@pytest.mark.parametrize("lies", [False, True], ids=["honest", "lying"])
def test_a_small_file_that_decodes_to_too_much_is_refused_by_shard_row_group_and_column_in_bounded_memory(
    tmp_path: Path, make: Callable[[], bytes], key: str, column: str, lies: bool
) -> None:
    data = make()
    if lies:
        data = footer.edited_column(data, -1, {footer.UNPACKED: 100})
    path = tmp_path / "bomb.parquet"
    path.write_bytes(data)
    assert len(data) < 200_000

    def refused() -> None:
        with pytest.raises(InputError) as error:
            read_shard(path, key=key)
        line = str(error.value)
        assert f"bomb.parquet: row group 0: column {column!r} decodes to more than finf holds" in line
        assert "write it with smaller row groups" in line
        assert "\n" not in line

    assert arrow_peak_bytes(refused) < PEAK


def test_a_bomb_in_a_column_that_nobody_reads_is_not_looked_at(tmp_path: Path) -> None:
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, np.int32)), pa.array(["b" * 10**6]))
    path = tmp_path / "shard.parquet"
    path.write_bytes(parquet_bytes({"text": ["short"] * 2000, "body": names}, dictionary_pagesize_limit=2**30))
    assert len(read_shard(path)) == 2000
    with pytest.raises(InputError, match="row group 0: column 'body' decodes to more than finf holds"):
        read_row(str(path), 0)


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("encoding", ["RLE_DICTIONARY", "PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_what_is_within_the_limit_is_read_whatever_its_encoding(
    tmp_path: Path, codec: str, version: str, encoding: str
) -> None:
    """Names of which pages alone do not tell how long they are: 20,000 rows name 300 strings, one of them long."""
    values = [f"value {index % 300}" for index in range(20_000)]
    values[17], values[18] = "long " * 20_000, None
    named = encoding == "RLE_DICTIONARY"
    path = tmp_path / "shard.parquet"
    path.write_bytes(
        parquet_bytes(
            {"meta": pa.array([{"text": value} for value in values])},
            compression=codec,
            data_page_version=version,
            data_page_size=10_000,
            use_dictionary=named,
            **({} if named else {"column_encoding": {"meta.text": encoding}}),
        )
    )
    assert [row.text for row in read_shard(path, "meta.text")] == values


def edit_rows(num_rows: int) -> Callable[[bytes], bytes]:
    def edit(file: footer.Struct) -> None:
        file[footer.NUM_ROWS][1] = num_rows
        file[footer.ROW_GROUPS][1][1][0][footer.GROUP_ROWS][1] = num_rows

    return lambda data: footer.edited(data, edit)


def column_says(**fields: int) -> Callable[[bytes], bytes]:
    numbers = {getattr(footer, name): value for name, value in fields.items()}
    return lambda data: footer.edited_column(data, 0, numbers)


def page_says(field: int, value: int) -> Callable[[bytes], bytes]:
    """The first page's header says another size."""
    return lambda data: footer.edited_page(data, 4, lambda header: header[field].__setitem__(1, value))


def says_length(data: bytes, num_bytes: int) -> bytes:
    return data[:-8] + num_bytes.to_bytes(4, "little") + b"PAR1"


LIES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("more rows than there are", edit_rows(10**12), "row group 0: holds 100 values in column 'text', and its footer"),
    ("fewer rows than there are", edit_rows(99), "row group 0: holds 100 values in column 'text', and its footer"),
    ("fewer than no rows", edit_rows(-1), "counts of rows contradict each other"),
    ("more values than there are", lambda data: edit_rows(10**12)(column_says(NUM_VALUES=10**12)(data)), "holds 100"),
    ("a chunk beyond the file", column_says(PACKED=2**40), "shard.parquet: not a readable Parquet file"),
    ("a chunk of negative size", column_says(PACKED=-1), "shard.parquet: not a readable Parquet file"),
    ("a chunk that starts nowhere", column_says(DATA_OFFSET=2**40), "shard.parquet: not a readable Parquet file"),
    ("a page of negative size", page_says(2, -3000), "column 'text' is damaged"),
    ("a page that unpacks to less", page_says(2, 1200), "shard.parquet: not a readable Parquet file"),
    ("a footer longer than the file", lambda data: says_length(data, 10**9), "a footer of 1,000,000,000 bytes in a"),
    ("a footer of garbage", lambda data: footer.with_footer(data, b"\x19\xfc" * 10**6), "not a readable Parquet file"),
    ("a very long footer", lambda data: footer.with_footer(data, bytes(2**25)), "is more than finf reads"),
]


@pytest.mark.parametrize(("edit", "words"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES])
def test_a_footer_that_lies_is_one_line_with_the_shard(
    tmp_path: Path, edit: Callable[[bytes], bytes], words: str
) -> None:
    path = tmp_path / "shard.parquet"
    path.write_bytes(edit(parquet_bytes({"text": TEXTS}, use_dictionary=False)))

    def refused() -> None:
        with pytest.raises(InputError) as error:
            read_shard(path)
        assert str(path) in str(error.value)
        assert words in str(error.value)
        assert "\n" not in str(error.value)

    assert arrow_peak_bytes(refused) < PEAK


def nested(depth: int) -> bytes:
    array = pa.array(["x"])
    for _ in range(depth):
        array = pa.StructArray.from_arrays([array], ["f"])
    return parquet_bytes({"text": ["text"], "deep": array})


def deeper(data: bytes, depth: int) -> bytes:
    """The schema with so many more groups within each other; pyarrow itself writes no such thing."""

    def edit(file: footer.Struct) -> None:
        root, *columns = file[footer.SCHEMA][1][1]
        group = {3: [footer.I32, 1], 4: [footer.BINARY, b"f"], 5: [footer.I32, 1]}
        root[5][1] += 1
        leaf = {1: [footer.I32, 6], 3: [footer.I32, 1], 4: [footer.BINARY, b"leaf"]}
        file[footer.SCHEMA][1] = (footer.STRUCT, [root, *columns, *[group] * depth, leaf])

    return footer.edited(data, edit)


@pytest.mark.parametrize("depth", [100, 10_000, 300_000])
def test_a_schema_that_is_nested_too_deeply_is_one_line_and_no_crash(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "deep.parquet"
    path.write_bytes(deeper(parquet_bytes({"text": ["text"]}), depth))
    with pytest.raises(InputError, match=r"deep\.parquet: not a readable Parquet file \(.*deeply nested"):
        read_shard(path)


def test_a_schema_of_ten_thousand_columns_is_read_and_an_error_names_a_few_of_them(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    path.write_bytes(parquet_bytes({"text": ["text"], **{f"c{index}": [index] for index in range(10_000)}}))
    assert [row.text for row in read_shard(path)] == ["text"]
    with pytest.raises(InputError, match="no column 'body'") as error:
        read_shard(path, "body")
    assert len(str(error.value)) < 2000
    assert "and 9,981 more" in str(error.value)


def test_a_range_that_was_looked_at_is_not_fetched_again(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    path.write_bytes(parquet_bytes({"id": TEXTS, "text": TEXTS}))
    with storage.open_parquet(str(path)) as parquet:
        fetched = sum(parquet.metadata.row_group(0).column(index).total_compressed_size for index in range(2))
        counted = CountingSource(parquet.source)
        again = guarded_parquet.GuardedParquet(counted, parquet.metadata, parquet.schema_arrow)
        assert len(storage.read_row_group(again, 0, ["id", "text"], str(path))) == 100
    assert counted.num_bytes == fetched


class CountingSource:
    """pyarrow's file, and how many bytes were read of it."""

    def __init__(self, source: Any) -> None:
        self.source, self.num_bytes = source, 0

    def size(self) -> int:
        return int(self.source.size())

    def read_at(self, num_bytes: int, start: int) -> bytes:
        self.num_bytes += num_bytes
        return bytes(self.source.read_at(num_bytes, start))


def wrong_histogram(metadata: footer.Struct) -> None:
    """Three counts of definition levels, of which a column that may be null has two."""
    metadata[16] = [footer.STRUCT, {3: [footer.LIST, (footer.I64, [1, 2, 3])]}]


def unknown_codec(metadata: footer.Struct) -> None:
    metadata[4][1] = 82


@pytest.mark.parametrize("edit", [wrong_histogram, unknown_codec])
def test_a_footer_that_ends_the_process_when_pyarrow_is_asked_for_a_column_is_one_line(
    tmp_path: Path, edit: Callable[[footer.Struct], None]
) -> None:
    """Read by a child, since pyarrow 26 would take the tests with it."""
    data = footer.edited(
        parquet_bytes({"text": ["long " * 100] * 500}),
        lambda file: edit(file[footer.ROW_GROUPS][1][1][0][footer.COLUMNS][1][1][0][footer.META][1]),
    )
    (tmp_path / "shard.parquet").write_bytes(data)
    program = (
        "import sys\nfrom finf_core.errors import InputError\nfrom tasks import guarded_read\n"
        "from tasks.show_row import read_row\nguarded_read.MAX_GROUP_BYTES = 100_000\n"
        "try:\n    read_row(sys.argv[1], 0)\nexcept InputError as error:\n    print(error)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "shard.parquet")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert child.returncode == 0, child.stderr
    assert "shard.parquet: not a readable Parquet file" in child.stdout


THREADS = """
import os, sys
from tasks import guarded_read, storage
guarded_read._check_chunks = lambda *_: None  # before anything is decoded; what its thread held is long gone then
with storage.open_parquet(sys.argv[1]) as parquet:
    before = len(os.listdir("/proc/self/task"))
    assert storage.read_row_group(parquet, 0, ["first", "second"], sys.argv[1]).num_rows == 100
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_no_thread_of_pyarrow_holds_what_python_read_when_the_process_ends(tmp_path: Path) -> None:
    shard = tmp_path / "shard.parquet"
    pq.write_table(pa.table({name: ["a text"] * 100 for name in ("first", "second")}), shard)
    done = subprocess.run([sys.executable, "-c", THREADS, str(shard)], capture_output=True, text=True)
    assert done.stdout.split() == ["0"], done.stderr
