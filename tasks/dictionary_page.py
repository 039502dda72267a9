"""The longest string of a Parquet dictionary: how much a row costs at most that names one of its strings."""

import struct

import pyarrow as pa

CODECS = {"SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "ZSTD": "zstd", "LZ4_RAW": "lz4_raw"}
MOST_STRINGS = 200_000  # that are looked at one by one


def longest_string(packed: memoryview, unpacked_bytes: int, num_strings: int, codec: str) -> int | None:
    """In bytes, of a dictionary page's content; None where it is cheaper to let pyarrow read it."""
    if num_strings > MOST_STRINGS or codec not in (*CODECS, "UNCOMPRESSED"):
        return None
    try:
        data = packed if codec == "UNCOMPRESSED" else _unpack(packed, unpacked_bytes, codec)
        return _longest(data)
    except (pa.ArrowException, OSError, struct.error):
        return None  # damaged: pyarrow says how


def _unpack(packed: memoryview, unpacked_bytes: int, codec: str) -> memoryview:
    return memoryview(pa.Codec(CODECS[codec]).decompress(pa.py_buffer(packed), unpacked_bytes))


def _longest(data: memoryview) -> int:
    """Each string is its length, in 4 bytes, and its bytes."""
    longest = place = 0
    length_of = struct.Struct("<I").unpack_from
    while place < len(data):
        (length,) = length_of(data, place)
        longest = max(longest, length)
        place += 4 + length
    return longest
