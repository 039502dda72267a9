"""Before anything is paid: does the model read this corpus better than chance, and how fast?"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any

from finf_core.classifier import Classifier
from finf_core.diffusion import Diffusion
from finf_core.errors import CheckpointError
from finf_core.scoring import score_rows
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.bad_rows import sort_out_bad_rows
from tasks.corpus import Unit, read_unit
from tasks.encode import encode_corpus_rows
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel, TextModel
from tasks.score_shards import planned_units

SAMPLE_ROWS, FEW_IMAGES = 64, 4
WORSE_THAN_CHANCE_NATS = 0.3  # mean loss above that of knowing nothing by more: something does not belong together
WRONG = {
    "causal_lm": "tokenizer and weights do not belong together, or the column is not text of this model's kind",
    "classifier": "model.images or corpus.image_mode is not as in training, or labels mean other classes",
    "diffusion": "model.images is not as in training, or the schedule or what it predicts is another",
}


@dataclass(frozen=True)
class ModelCheck:
    """What a sample of rows says about the whole corpus."""

    num_rows: int
    num_tokens: int
    mean_nats: float  # per target
    seconds: float  # of one forward pass over the sample


def check_model(job: ScanJob, pool: ActorPool) -> str:
    """Have one actor check the model on the first unit that has rows; publishes what it saw."""
    unit = next(planned_units(job))
    [(_, check)] = pool.map("check_model", [unit])
    storage.publish_first(job.model_check_uri, json.dumps(asdict(check)).encode())
    return job.model_check_uri


def check_model_on_rows(model: LoadedModel, job: ScanJob, unit: Unit) -> ModelCheck:
    """Score the first rows of a unit with the base model.

    Raises:
        CheckpointError: the model is worse than a uniform guess on them.
    """
    rows = list(islice(chain.from_iterable(read_unit(unit, job.spec.corpus, model.chat)), SAMPLE_ROWS))
    good, _ = sort_out_bad_rows(rows, unit.shard, job.spec.corpus)
    windows = encode_corpus_rows(model, job.spec.model, good, unit.shard)
    started = time.monotonic()
    losses = score_rows(model.adapter, windows, [], model.batch_tokens)
    seconds = time.monotonic() - started
    mean_nats = float(losses.base_nats_R.sum()) / max(1, int(losses.num_targets_R.sum()))
    chance_nats = _chance_nats(model, windows)
    if chance_nats is not None and mean_nats > chance_nats + WORSE_THAN_CHANCE_NATS:
        raise CheckpointError(
            f"{job.spec.model.path}: loss {mean_nats:.2f} nats per target on {unit.shard}, chance is "
            f"{chance_nats:.2f}: {WRONG[job.spec.model.kind]}"
        )
    num_tokens = sum(len(window) for row in windows for window in row)
    return ModelCheck(len(rows), num_tokens, mean_nats, seconds)


def _chance_nats(model: LoadedModel, rows: Sequence[Sequence[Any]]) -> float | None:
    """Per target: a uniform guess, or a denoiser that always says 0; None where the adapter is not ours to know."""
    adapter = model.adapter
    if isinstance(model, TextModel):
        return math.log(model.adapter.num_vocabulary)
    if isinstance(adapter, Classifier) and rows:
        return math.log(adapter.num_classes(rows[0][0]))
    if isinstance(adapter, Diffusion) and rows:
        return adapter.nats_of_nothing(adapter.collate([row[0] for row in rows[:FEW_IMAGES]]))
    return None
