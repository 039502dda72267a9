"""Is the error rate true of a real scan? One without any leak, its statistics dealt out many times."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scan_example
from scipy.stats import binomtest
from test_shard_scorer import score_everything

from finf_core.scores import Floats
from finf_core.spec import RankSpec, StrategySpec, VerdictSpec
from finf_core.verdict import Statistics, decide
from tasks import storage

NUM_CLEAN, NUM_JUDGED, NUM_DEALS = 160, 10, 500


@pytest.fixture(scope="module")
def statistic(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Floats:
    """Of clean queries, all drawn alike: what the scan judges them by."""
    folder = tmp_path_factory.mktemp("calibration")
    corpus = scan_example.write_shards(str(folder / "corpus"), scan_example.texts(96), num_shards=2)
    items = [("question: ", text) for text in scan_example.texts(NUM_CLEAN, seed=1)]
    spec = scan_example.scan_spec(tiny_checkpoint, corpus, scan_example.write_queries(str(folder / "q.parquet"), items))
    rank = RankSpec(by="control_z", top_k=5)
    job = score_everything(dataclasses.replace(spec, rank=rank, strategy=StrategySpec(kind="one_pass")), folder)
    values = storage.read_table(job.file("queries.parquet"))["statistic"].to_numpy()
    assert len(np.unique(values)) > 0.9 * NUM_CLEAN
    return values


@pytest.mark.parametrize("fdr", [0.01, 0.05, 0.1])
def test_without_any_leak_no_more_deals_than_the_rate_have_a_query_called_leaked(statistic: Floats, fdr: float) -> None:
    rng, with_any = np.random.default_rng(0), 0
    for _ in range(NUM_DEALS):
        dealt = Statistics(rng.permutation(statistic), *np.zeros((3, NUM_CLEAN)))
        found, _ = decide(dealt.of(slice(NUM_JUDGED)), dealt.of(slice(NUM_JUDGED, None)), VerdictSpec(fdr=fdr))
        with_any += any(found.leaked_Q)
    assert binomtest(with_any, NUM_DEALS, fdr, alternative="greater").pvalue > 0.01
    can_tell_one = fdr * (1 + NUM_CLEAN - NUM_JUDGED) >= NUM_JUDGED  # that stands beyond every control
    assert with_any > 0 or not can_tell_one
