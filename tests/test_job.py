"""What a run shares with others, and what makes it another: the names of its products."""

import dataclasses
from pathlib import Path

import pytest

from finf_core.spec import CorpusSpec, ModelSpec, QueriesSpec, RankSpec, ScanSpec, StrategySpec, UpdateSpec
from tasks.corpus import Shard, Unit, plan_units
from tasks.job import ScanJob

JOB = ScanJob(
    spec=ScanSpec(name="a", model=ModelSpec(path="m"), corpus=CorpusSpec(path="c"), queries=QueriesSpec(path="q")),
    store="store",
    batch_tokens=None,
    model_digest="model",
    shards_digest="shards",
    queries_digest="queries",
    set_digest="texts",
)
PRODUCTS = ("curvature_uri", "updates_uri", "scores_uri", "run_uri")


def changed_products(**changes: object) -> set[str]:
    """Which products of JOB have another name after a change of the job, or of its spec."""
    of_spec = {key: value for key, value in changes.items() if hasattr(JOB.spec, key)}
    of_job = {key: value for key, value in changes.items() if key not in of_spec}
    other = dataclasses.replace(JOB, spec=dataclasses.replace(JOB.spec, **of_spec), **of_job)
    return {name for name in PRODUCTS if getattr(other, name) != getattr(JOB, name)}


@pytest.mark.parametrize(
    ("changes", "products"),
    [
        ({"batch_tokens": 64}, set()),
        ({"cache_tokens": True}, set()),
        ({"name": "b"}, {"run_uri"}),
        ({"optimizer_digest": "other"}, {"run_uri"}),  # of an update that reads none: the curvature keeps its name
        ({"model": ModelSpec(path="elsewhere")}, {"run_uri"}),
        ({"corpus": CorpusSpec(path="elsewhere")}, {"run_uri"}),
        ({"queries": QueriesSpec(path="elsewhere")}, {"run_uri"}),
        ({"queries_digest": "other"}, {"run_uri"}),  # other ids for the same texts
        ({"queries_digest": "other", "set_digest": "other"}, {"run_uri", "scores_uri"}),
        ({"corpus": CorpusSpec(path="c", sample="s"), "sample_digest": "shards"}, {"run_uri"}),
        ({"corpus": CorpusSpec(path="c", sample="s"), "sample_digest": "other"}, set(PRODUCTS)),
        ({"rank": RankSpec(top_k=5)}, {"run_uri", "scores_uri"}),
        ({"update": UpdateSpec(move_nats=0.2)}, {"run_uri", "scores_uri", "updates_uri"}),
        ({"update": UpdateSpec(curvature_rows=5)}, set(PRODUCTS)),
        ({"model": ModelSpec(path="m", context_tokens=8)}, set(PRODUCTS)),
        ({"corpus": CorpusSpec(path="c", text_column="body")}, set(PRODUCTS)),
        ({"corpus": CorpusSpec(path="c", tokens_column="ids")}, set(PRODUCTS)),
        ({"corpus": CorpusSpec(path="c", messages_column="ids")}, set(PRODUCTS)),
        ({"corpus": CorpusSpec(path="c", text_template="{ids}")}, set(PRODUCTS)),
        ({"model": ModelSpec(path="m", chat_template="plain")}, set(PRODUCTS)),
        ({"model_digest": "other"}, set(PRODUCTS)),
    ],
)
def test_a_change_renames_what_it_changes_and_nothing_else(changes: dict[str, object], products: set[str]) -> None:
    assert changed_products(**changes) == products


def test_with_a_sample_only_the_run_depends_on_the_shards_of_the_corpus() -> None:
    sampled = dataclasses.replace(JOB, sample_digest="sample")
    grown = dataclasses.replace(sampled, shards_digest="more shards")
    assert {name for name in PRODUCTS if getattr(grown, name) != getattr(sampled, name)} == {"run_uri"}


def test_where_rows_are_kept_for_what_they_are_to_all_queries_scores_hang_on_the_whole_list() -> None:
    by_z = dataclasses.replace(JOB, spec=dataclasses.replace(JOB.spec, rank=RankSpec(by="control_z")))
    one_pass = dataclasses.replace(JOB, strategy=StrategySpec(kind="one_pass"))
    for job in (by_z, one_pass):
        assert dataclasses.replace(job, queries_digest="other").scores_uri != job.scores_uri


def test_an_update_without_curvature_does_not_depend_on_the_corpus() -> None:
    sgd = dataclasses.replace(JOB, spec=dataclasses.replace(JOB.spec, update=UpdateSpec(kind="sgd")))
    assert dataclasses.replace(sgd, shards_digest="other").updates_uri == sgd.updates_uri


def test_units_cover_every_row_group_once_and_depend_on_their_shard_alone() -> None:
    one, two = Shard("one", 9, "e1", (100, 30, 500, 1)), Shard("two", 9, "e2", (5,))
    units = list(plan_units([one, two]))
    assert [(unit.shard, unit.first_group, unit.stop_group, unit.first_row, unit.num_rows) for unit in units] == [
        ("one", 0, 2, 0, 130),
        ("one", 2, 3, 130, 500),
        ("one", 3, 4, 630, 1),
        ("two", 0, 1, 0, 5),
    ]
    assert list(plan_units([two])) == units[3:]
    assert list(plan_units([Shard("empty", 9, "e3", ())])) == []


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Unit)])
def test_a_unit_is_named_after_its_content_and_what_is_done_to_it(field: str) -> None:
    unit = Unit("one", 9, "e1", 0, 2, 0, 130)
    value = getattr(unit, field)
    other = dataclasses.replace(unit, **{field: value + ("x" if isinstance(value, str) else 1)})
    assert len({unit.name("scores"), other.name("scores"), unit.name("other scores")}) == 3
    assert Path(unit.name("scores")).suffix == ".parquet"
