"""Before a run is paid for: does the signal of the updates stand out from rounding, and what if it does not?"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice

from pydantic import TypeAdapter

from finf_core.curvature import Curvature
from finf_core.fingerprint import fingerprint
from finf_core.precision import Precision, Trial, choose_precision
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.bad_rows import sort_out_bad_rows
from tasks.corpus import Unit, read_unit
from tasks.encode import encode_corpus_rows, encode_query
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel
from tasks.queries import Query, read_queries
from tasks.score_shards import sample_units

SAMPLE_ROWS, SAMPLE_QUERIES = 32, 4
MOST_SHOWN = 1e6


@dataclass(frozen=True)
class PrecisionCheck:
    """What was chosen, and what each choice that was tried gave."""

    precision: Precision
    trials: tuple[Trial, ...]


def check_precision(job: ScanJob, pool: ActorPool) -> str:
    """Have one actor measure on the first unit and publish the choice; returns its URI.

    Raises:
        InputError: nothing that was tried reaches `update.least_signal`.
    """
    list(pool.map("check_precision", [next(sample_units(job))]))
    return job.precision_uri


def check_precision_on_rows(
    model: LoadedModel, curvature: Curvature | None, job: ScanJob, unit: Unit
) -> PrecisionCheck:
    """On the actor: a few queries against the first rows of a unit; publishes what it found."""
    spec = job.spec
    rows = list(islice(chain.from_iterable(read_unit(unit, spec.corpus, model.chat)), SAMPLE_ROWS))
    good, _ = sort_out_bad_rows(rows, unit.shard, spec.corpus)
    windows = encode_corpus_rows(model, spec.model, good, unit.shard)
    sample = draw_queries(read_queries(job.queries_uri), spec.update.seed)
    encoded = [encode_query(model, spec.model, query) for query in sample]
    precision, trials = choose_precision(model.adapter, windows, encoded, spec.update, curvature, model.batch_tokens)
    check = PrecisionCheck(precision, tuple(trials))
    storage.publish_first(job.precision_uri, json.dumps(asdict(check)).encode())
    return check


def draw_queries(queries: Sequence[Query], seed: int) -> list[Query]:
    """A few, by a hash of their texts: one query more or less hardly changes which."""
    return sorted(queries, key=lambda query: fingerprint([seed, query.digest]))[:SAMPLE_QUERIES]


def read_precision_check(job: ScanJob) -> PrecisionCheck:
    return TypeAdapter(PrecisionCheck).validate_json(storage.read_bytes(job.precision_uri))


def describe_precision(check: PrecisionCheck) -> str:
    """One sentence for people."""
    trust = check.trials[-1].trust
    ratio = 0.0 if trust is None else trust.ratio
    refused = "; too noisy: " + ", ".join(str(trial.precision) for trial in check.trials[:-1])
    return (
        f"changes are taken as {check.precision} differences, whose signal is {min(ratio, MOST_SHOWN):,.0f}"
        f"{' or more' if ratio > MOST_SHOWN else ''} times their noise on a sample of rows"
        + (refused if len(check.trials) > 1 else "")
    )
