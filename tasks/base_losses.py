"""The base-loss cache: what each target of a unit costs the base model, kept in the store and shared by runs.

<store>/cache/base-<fingerprint>/<unit>.parquet: a line per scored row, with the nats of its targets and, when asked
for, its token ids. The fingerprint names whatever could change a bit of them: see `ScanJob.base_fingerprint`.
An entry is never trusted blindly: one whose digest or counts do not fit is as good as none.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from finf_core.errors import InputError
from finf_core.scores import Floats, Ints
from finf_core.scoring import BaseNats
from finf_core.windows import TokenIds, Window
from tasks import storage
from tasks.corpus import CorpusRow, Unit
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel

DIGEST_KEY = b"finf.base.digest"


@dataclass(frozen=True)
class BaseEntry:
    """The cached losses (and token ids, if they were cached too) of some rows of a unit."""

    row: Ints  # (R,) within the shard
    num_targets: Ints  # (R,)
    nats_N: Floats  # of all their targets, row after row
    token_ids: list[TokenIds] | None = None

    def of_rows(self, rows: Sequence[CorpusRow]) -> "BaseEntry | None":
        """The part of consecutive rows; None where the entry does not hold just these."""
        wanted = [row.row for row in rows]
        start = int(np.searchsorted(self.row, wanted[0])) if wanted else 0
        here = slice(start, start + len(wanted))
        if self.row[here].tolist() != wanted:
            return None
        ends = np.concatenate([[0], np.cumsum(self.num_targets)])
        nats_N = self.nats_N[ends[here.start] : ends[here.stop]]
        ids = None if self.token_ids is None else self.token_ids[here]
        return BaseEntry(self.row[here], self.num_targets[here], nats_N, ids)

    def of_row(self, row: int) -> Floats | None:
        """The nats of one row's targets; None where the entry does not hold it."""
        index = int(np.searchsorted(self.row, row))
        if index == len(self.row) or self.row[index] != row:
            return None
        end = int(self.num_targets[: index + 1].sum())
        return self.nats_N[end - self.num_targets[index] : end]

    def as_base(self, windows: Sequence[Sequence[Any]]) -> BaseNats | None:
        """For `score_rows`; None where the rows' windows have other targets than the entry has losses."""
        if not any(isinstance(window, Window) for row in windows for window in row):  # items: each row is one example
            return BaseNats(self.nats_N, self.num_targets)
        base = BaseNats(self.nats_N, np.array([window.num_targets for row in windows for window in row], np.int64))
        held = [sum(window.num_targets for window in row) for row in windows]
        return base if np.array_equal(held, self.num_targets) else None

    def holds(self, other: "BaseEntry") -> bool:
        """Whether nothing of another entry, which was made by its help, is missing here."""
        same = np.array_equal(self.row, other.row) and np.array_equal(self.nats_N, other.nats_N, equal_nan=True)
        return same and (other.token_ids is None or self.token_ids is not None)


def join_entries(parts: Sequence[BaseEntry]) -> BaseEntry:
    ids = [part.token_ids for part in parts]
    return BaseEntry(
        np.concatenate([part.row for part in parts]),
        np.concatenate([part.num_targets for part in parts]),
        np.concatenate([part.nats_N for part in parts]),
        None if None in ids else [each for part in ids if part is not None for each in part],
    )


def publish_base(uri: str, entry: BaseEntry) -> None:
    """Without loss: float32, in which they are taken, unless some value is finer."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(entry.num_targets)]), pa.int64())
    nats = _narrow(entry.nats_N)
    columns = {"row": pa.array(entry.row), "nats": pa.LargeListArray.from_arrays(offsets, pa.array(nats))}
    if entry.token_ids is not None:
        columns["token_ids"] = pa.array(entry.token_ids, pa.large_list(pa.int32()))
    table = pa.table(columns)
    storage.publish_table(uri, table.replace_schema_metadata({DIGEST_KEY: _digest(entry).encode()}))


def read_base(uri: str) -> BaseEntry | None:
    """The entry of a unit; None if there is none, or it is damaged."""
    try:
        table = storage.read_table(uri).combine_chunks()
        entry = BaseEntry(
            table["row"].to_numpy(),
            _lengths(table["nats"]),
            table["nats"].combine_chunks().flatten().to_numpy().astype(np.float64),
            _arrays(table["token_ids"]) if "token_ids" in table.column_names else None,
        )
    except (InputError, KeyError, pa.ArrowException):
        return None
    is_whole = (table.schema.metadata or {}).get(DIGEST_KEY) == _digest(entry).encode()
    return entry if is_whole else None


def base_uri(model: LoadedModel, job: ScanJob, unit: Unit, with_gradients: bool) -> str:
    """Where the base losses of a unit lie that a forward pass gives, or one with gradients."""
    batch_tokens = model.gradient_batch_tokens if with_gradients else model.batch_tokens
    return job.base_uri(unit, batch_tokens, arithmetic(model.compiled, with_gradients))


def arithmetic(compiled: bool, with_gradients: bool = False) -> str:
    """What rounds: a base pass of other hardware, other kernels or other threads would not cancel bit by bit."""
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    else:
        where = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, transformers {_transformers_version()}"
    matmul = f"{torch.get_float32_matmul_precision()} precision"
    return (
        f"{versions}, {where}, {matmul}{', compiled' if compiled else ''}{', with gradients' if with_gradients else ''}"
    )


@cache
def _transformers_version() -> str:
    return version("transformers")  # a search through the file system


def _narrow(nats_N: Floats) -> np.ndarray:
    narrow = nats_N.astype(np.float32)
    return narrow if np.array_equal(narrow.astype(np.float64), nats_N, equal_nan=True) else nats_N


def _lengths(lists: pa.ChunkedArray) -> Ints:
    lengths: Ints = pa.compute.list_value_length(lists).to_numpy().astype(np.int64)
    return lengths


def _arrays(lists: pa.ChunkedArray) -> list[TokenIds]:
    ids = lists.combine_chunks().flatten().to_numpy().astype(np.int64)
    ends = np.cumsum(_lengths(lists))
    return [ids[end - length : end] for end, length in zip(ends, _lengths(lists), strict=True)]


def _digest(entry: BaseEntry) -> str:
    """Of the values, so that a damaged object is told from a whole one."""
    digest = hashlib.sha256()
    for part in (entry.row, entry.num_targets, entry.nats_N, *(entry.token_ids or [])):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
