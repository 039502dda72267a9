"""The yardstick of benchmarks.efficiency: the model alone, in processes of its own, on batches made beforehand.

Each process holds the model and its share of the batches and, when told to, runs the forward passes: base and one
for each query, under `inference_mode` and with the same chunked loss, reading, writing and ranking nothing.
"""

import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch

from finf_core.batches import plan_batches
from finf_core.spec import CorpusSpec, ModelSpec
from tasks.checkpoint import load_language_model
from tasks.corpus import list_shards, plan_units, read_unit
from tasks.encode import encode_corpus_rows
from tasks.loaded_model import TextModel


class BareLoop:
    """Processes that wait, with everything in memory, for `run`."""

    def __init__(self, model: Path, corpus: Path, num_processes: int, num_threads: int) -> None:
        context = get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(num_processes):
            here, there = context.Pipe()
            arguments = (there, str(model), str(corpus), rank, num_processes, num_threads)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def __enter__(self) -> Self:
        self.sizes = [pipe.recv() for pipe in self._pipes]
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()

    @property
    def num_rows(self) -> int:
        return sum(size["rows"] for size in self.sizes)

    @property
    def filled_share(self) -> float:
        """Of the positions of all batches, those that hold a token and no padding."""
        return sum(size["tokens"] for size in self.sizes) / sum(size["positions"] for size in self.sizes)

    def run(self, num_passes: int) -> float:
        """Rows per second of all processes together, each row passed `num_passes` times."""
        for pipe in self._pipes:
            pipe.send(num_passes)
        rates = [size["rows"] / pipe.recv() for pipe, size in zip(self._pipes, self.sizes, strict=True)]
        return sum(rates)


def _serve(pipe: Connection, folder: str, corpus: str, rank: int, num_processes: int, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    model = load_language_model(ModelSpec(path=folder))
    groups, size = _batches(model, corpus, rank, num_processes)
    _pass(model, groups[:1], 1)
    pipe.send(size)
    while (num_passes := pipe.recv()) is not None:
        started = time.monotonic()
        _pass(model, groups, num_passes)
        pipe.send(time.monotonic() - started)


def _batches(model: TextModel, corpus: str, rank: int, num_processes: int) -> tuple[list[list[Any]], dict[str, int]]:
    """The batches of each row group of every so manieth unit, just as a scan makes them."""
    spec = CorpusSpec(path=corpus)
    groups: list[list[Any]] = []
    rows = tokens = positions = 0
    for unit in list(plan_units(list_shards(spec)))[rank::num_processes]:
        for group in read_unit(unit, spec):
            encoded = encode_corpus_rows(model, ModelSpec(path=""), group, unit.shard)
            windows = [window for row in encoded for window in row]
            plan = plan_batches([len(window) for window in windows], model.batch_tokens)
            batches = [model.adapter.collate([windows[index] for index in indices]) for indices in plan]
            groups.append(batches)
            rows += len(group)
            tokens += sum(map(len, windows))
            positions += sum(batch.input_ids_BT.numel() for batch in batches)
    return groups, {"rows": rows, "tokens": tokens, "positions": positions}


def _pass(model: TextModel, groups: Sequence[Sequence[Any]], num_passes: int) -> None:
    with torch.inference_mode():
        for batches in groups:
            for _ in range(num_passes):
                for batch in batches:
                    model.adapter.loss(batch)
