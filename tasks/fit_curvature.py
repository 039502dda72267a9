"""Fit the Kronecker factors once per model and corpus sample; every run with the same sample reuses them."""

import math
import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from finf_core.batches import plan_batches
from finf_core.causal_lm import TokenBatch
from finf_core.curvature import factored_layers, fit_kronecker_factors
from finf_core.moving import moving_parameters
from finf_core.windows import Window
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.bad_rows import sort_out_bad_rows
from tasks.checkpoint import LoadedModel
from tasks.corpus import Unit, plan_units, read_unit, shards_from_table
from tasks.encode import encode_rows
from tasks.job import ScanJob
from tasks.update_store import publish_factors

SAMPLE_UNITS = 64  # the sample is spread over at most this many units


def fit_curvature(job: ScanJob, pool: ActorPool) -> str:
    """Have one actor fit and publish the factors, unless they are there; returns their URI."""
    if not storage.exists(job.curvature_uri):
        units = list(plan_units(shards_from_table(storage.read_table(job.shards_uri))))
        sample = random.Random(job.spec.update.seed).sample(units, min(SAMPLE_UNITS, len(units)))
        list(pool.map("fit_curvature", [sample]))
    return job.curvature_uri


def fit_factors_on_rows(model: LoadedModel, job: ScanJob, units: Sequence[Unit]) -> int:
    """On the actor: fit on the first rows of each unit and publish; returns the number of rows used."""
    update, adapter = job.spec.update, model.adapter
    share = math.ceil(update.curvature_rows / len(units))
    windows = [window for unit in units for window in _first_windows(model, job, unit, share)]
    layers = factored_layers(adapter.module, moving_parameters(adapter.module, update.moves), adapter.head)
    factors = fit_kronecker_factors(layers, _batches(model, job, windows), adapter.loss)
    publish_factors(job.curvature_uri, factors)
    return len(windows)


def _first_windows(model: LoadedModel, job: ScanJob, unit: Unit, num_rows: int) -> Iterator[Window]:
    for rows in read_unit(unit, job.spec.corpus):
        good, _ = sort_out_bad_rows(rows[:num_rows], unit.shard, job.spec.corpus)
        for row_windows in encode_rows(model, job.spec.model, [row.text or "" for row in good]):
            yield from row_windows
        num_rows -= len(rows)
        if num_rows <= 0:
            return


def _batches(model: LoadedModel, job: ScanJob, windows: Sequence[Window]) -> Iterator[tuple[TokenBatch, Tensor]]:
    adapter = model.adapter
    generator = torch.Generator(adapter.head.weight.device).manual_seed(job.spec.update.seed)
    for indices in plan_batches([len(window) for window in windows], model.batch_tokens):
        batch = adapter.collate([windows[index] for index in indices])
        if job.spec.update.curvature_labels == "sampled":
            batch = adapter.sample_labels(batch, generator)
        yield batch, batch.is_input_BT
