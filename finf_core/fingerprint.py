"""A fingerprint: one name for a value, the same on every machine and in every process.

Two uses: the folder in storage and the cache key of the orchestrator. What has no
lasting name (an open file, a lambda, an object whose repr holds a memory address) is refused.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from finf_core.errors import InputError

SHORT_DIGITS = 12  # of 64 hexadecimal digits; enough for a folder's name


def fingerprint(value: Any) -> str:
    """SHA-256 (64 hexadecimal digits) of a value made of plain data and dataclasses.

    Raises:
        InputError: some part has no lasting name; the message says which.
    """
    text = json.dumps(_plain(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def short(fingerprint_: str) -> str:
    return fingerprint_[:SHORT_DIGITS]


def digest_chunks(chunks: Iterable[bytes]) -> str:
    """SHA-256 of bytes that arrive in pieces."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{where}: {value} cannot be fingerprinted; use a finite number")
        return {"float": value.hex()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, PurePath):
        return {"path": value.as_posix()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, "fields": fields}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InputError(f"{where}: a mapping needs text keys to be fingerprinted")
        return {"mapping": {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise InputError(f"{where}: a {type(value).__name__} has no lasting name and cannot be fingerprinted")
