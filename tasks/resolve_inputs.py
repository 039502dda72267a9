"""Resolve a spec: look at every input once, name it by its content, and write down what was found."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter

from finf_core.errors import CheckpointError, InputError
from finf_core.fingerprint import digest_chunks, fingerprint
from finf_core.spec import CorpusSpec, ScanSpec
from tasks import storage
from tasks.checkpoint import load_chat
from tasks.corpus import Shard, list_shards, shards_table
from tasks.items import ItemReader
from tasks.job import ScanJob
from tasks.load_model import digest_model
from tasks.options import RunOptions
from tasks.queries import Query, load_queries, queries_table
from tasks.query_sets import QuerySet
from tasks.true_rows import digest_truth

JOB = "spec.json"
MIN_QUERIES_FOR_Z = 3  # a query is measured against at least two others


@dataclass(frozen=True)
class Inputs:
    """What a scan reads, looked at but not yet paid for."""

    job: ScanJob
    shards: list[Shard]
    sample: list[Shard]  # of `corpus.sample`; without one, the shards
    queries: list[Query]


def find_inputs(spec: ScanSpec, options: RunOptions) -> Inputs:
    """Check and digest model, corpus and queries; writes nothing.

    Raises:
        InputError, CheckpointError: an input is missing or unusable.
    """
    model_digest = digest_model(spec.model)
    if spec.model.digest not in (None, model_digest):
        raise CheckpointError(f"{spec.model.path}: its digest is {model_digest}, the config wants {spec.model.digest}")
    place = spec.corpus.sample
    reader = None if spec.corpus.is_text else ItemReader(spec.corpus)
    shards = _shards_with_rows(spec.corpus)
    fact_column = spec.truth.column_of_queries
    queries = load_queries(spec.queries, load_chat(spec), reader, fact_column) if spec.queries.path else []
    sample = shards if place is None else _shards_with_rows(replace(spec.corpus, path=place))
    if spec.rank.by == "control_z" and len(queries) < MIN_QUERIES_FOR_Z:
        raise InputError(
            f"rank.by = 'control_z' wants {MIN_QUERIES_FOR_Z} queries, not {len(queries)}; use 'row_ratio'"
        )
    state = spec.update.optimizer_state
    job = ScanJob(
        spec=spec,
        store=options.store,
        batch_tokens=options.batch_tokens,
        compiled=options.compiled,
        cache_tokens=options.cache_tokens,
        model_digest=model_digest,
        shards_digest=digest_shards(shards),
        queries_digest=fingerprint(queries),
        set_digest=QuerySet.of(queries).digest,
        sample_digest=None if place is None else digest_shards(sample),
        optimizer_digest=None if state is None else digest_chunks([storage.read_bytes(state)]),
        truth_digest=None if spec.truth.path is None else digest_truth(spec.truth.path, queries),
    )
    return Inputs(job, shards, sample, queries)


def _shards_with_rows(corpus: CorpusSpec) -> list[Shard]:
    shards = list_shards(corpus)
    if not any(shard.num_rows for shard in shards):
        raise InputError(f"{corpus.path}: no shard has any row")
    return shards


def digest_shards(shards: Iterable[Shard]) -> str:
    """`fingerprint(shards)` of one or more, text by text: all at once, it would be the largest thing in memory."""
    return digest_chunks(_texts(shards))


def _texts(shards: Iterable[Shard]) -> Iterator[bytes]:
    before = b"["
    for shard in shards:
        plain = {"type": Shard.__name__, "fields": asdict(shard)}
        yield before + json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
        before = b","
    yield b"]"


def resolve_inputs(spec: ScanSpec, options: RunOptions) -> ScanJob:
    """Find the inputs and publish the run's record of them: shards, sample, queries_in and, last, spec.json."""
    inputs = find_inputs(spec, options)
    job = inputs.job
    storage.publish_table(job.shards_uri, shards_table(inputs.shards))
    if spec.corpus.sample is not None:
        storage.publish_table(job.sample_uri, shards_table(inputs.sample))
    storage.publish_table(job.queries_uri, queries_table(inputs.queries))
    storage.publish_bytes(job.file(JOB), json.dumps(asdict(job), indent=2).encode())
    return job


def read_job(run_uri: str) -> ScanJob:
    """The job of a run's folder.

    Raises:
        InputError: there is no run in that folder.
    """
    text = storage.read_bytes(storage.join(run_uri, JOB))
    return TypeAdapter(ScanJob).validate_json(text)
