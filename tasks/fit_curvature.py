"""Fit the curvature once per model and corpus sample; every run with the same sample reuses it."""

import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from finf_core.curvature import fit_curvature as fit_on_rows
from finf_core.moving import moving_parameters
from tasks.actor_pool import ActorPool
from tasks.adam_moments import read_adam_moments
from tasks.bad_rows import sort_out_bad_rows
from tasks.corpus import CorpusRow, read_unit
from tasks.curvature_store import CurvatureCost, is_complete, publish_cost, publish_curvature
from tasks.encode import encode_corpus_rows
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel
from tasks.score_shards import sample_units

SAMPLE_UNITS = 64  # the sample is spread over at most this many units


def fit_curvature(job: ScanJob, pool: ActorPool) -> str:
    """Have one actor fit and publish the curvature, unless it is there; returns its folder."""
    if not is_complete(job.curvature_uri):
        list(pool.map("fit_curvature", [job]))
    return job.curvature_uri


def fit_on_corpus(model: LoadedModel, job: ScanJob) -> CurvatureCost:
    """On the actor: fit on a sample of the corpus and publish; returns what it cost."""
    started = time.monotonic()
    if job.spec.update.optimizer_state is None:
        rows = sample_rows(model, job, job.spec.update.curvature_rows)
        tensors = _fit(model, job, rows)
    else:
        rows = []
        tensors = _moments(model, job, job.spec.update.optimizer_state)
    named = {part for key in tensors for part in key.split("/")}
    parameters = dict(model.adapter.module.named_parameters())
    moved = [name for name in parameters if name in named or name.rpartition(".")[0] in named]
    cost = CurvatureCost(
        num_rows=len(rows),
        num_tokens=sum(len(window) for row in rows for window in row),
        seconds=time.monotonic() - started,
        num_bytes=sum(tensor.numel() * 4 for tensor in tensors.values()),
        num_parts=publish_curvature(job.curvature_uri, tensors),
        moving_share=_num_elements(parameters, moved) / _num_elements(parameters, parameters),
    )
    publish_cost(job.curvature_uri, cost)
    return cost


def _fit(model: LoadedModel, job: ScanJob, rows: Sequence[Sequence[Any]]) -> dict[str, Tensor]:
    curvature = fit_on_rows(model.adapter, rows, job.spec.update, model.gradient_batch_tokens)
    return {} if curvature is None else curvature.tensors()


def _moments(model: LoadedModel, job: ScanJob, uri: str) -> dict[str, Tensor]:
    moments = read_adam_moments(uri, model.adapter.module)
    moving = moving_parameters(model.adapter.module, job.spec.update.moves)
    return {name: moment for name, moment in moments.items() if name in moving}


def _num_elements(parameters: Mapping[str, Tensor], names: Iterable[str]) -> int:
    return sum(parameters[name].numel() for name in names)


def sample_rows(model: LoadedModel, job: ScanJob, num_rows: int) -> list[list[Any]]:
    """The windows, or items, of `sample_corpus_rows`."""
    sample = sample_corpus_rows(model, job, num_rows)
    return [row for shard, rows in sample for row in encode_corpus_rows(model, job.spec.model, rows, shard)]


def sample_corpus_rows(model: LoadedModel, job: ScanJob, num_rows: int) -> Iterator[tuple[str, list[CorpusRow]]]:
    """The first rows of some units, drawn by the seed: about `num_rows` in all, the same ones every time.

    Yields:
        A shard and some of its rows, without those that are bad.
    """
    units = list(sample_units(job))
    drawn = random.Random(job.spec.update.seed).sample(units, min(SAMPLE_UNITS, len(units)))
    share = math.ceil(num_rows / len(drawn))
    for unit in drawn:
        wanted = share
        for rows in read_unit(unit, job.spec.corpus, model.chat):
            yield unit.shard, sort_out_bad_rows(rows[:wanted], unit.shard, job.spec.corpus)[0]
            wanted -= len(rows)
            if wanted <= 0:
                break
