"""bergson 2.5.1 on the benchmark's inputs, by the functions that its commands call, on the CPU.

Its commands want a data set on disk; rows and queries are handed over tokenised, so that every tool reads the same
tokens and the query's loss is taken on the solution alone. Its own bin-packed batches, sorted by length.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from bergson.build import build_query
from bergson.cli.trackstar import trackstar
from bergson.config.config import (
    DataConfig,
    DistributedConfig,
    HessianConfig,
    HessianPipelineConfig,
    IndexConfig,
    InversionConfig,
    PreprocessConfig,
    QuerySetConfig,
    ScoreConfig,
    TrackstarConfig,
)
from bergson.data import load_scores
from bergson.hessians.hessian_approximations import approximate_hessians
from bergson.hessians.pipeline import hessian_pipeline
from bergson.score.score import score_dataset
from datasets import Dataset

from benchmarks.peer_inputs import Clock, PeerInputs, Text, ToolScores
from benchmarks.peer_settings import BergsonSettings

MAX_DOCUMENTS = 64  # in a batch, as in its own examples


def run_bergson(inputs: PeerInputs, settings: BergsonSettings) -> ToolScores:
    """Fit, build the queries' gradients, score; what it writes goes to a folder that is then dropped."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _save(inputs.rows, folder / "rows")
        _save(inputs.queries, folder / "queries")
        left_out = set(inputs.layer_names(0)) - set(inputs.layer_names(settings.blocks))
        run = _Run(inputs.spec.model.path, folder, settings, sorted(name.removeprefix("model.") for name in left_out))
        clock = Clock()
        run.fit()
        fit = clock.lap()
        run.score()
        score = clock.lap()
        score_RQ = np.asarray(load_scores(folder / "run" / "scores")[:], dtype=np.float64)
        return ToolScores(score_RQ, fit, score)


class _Run:
    def __init__(self, model: str, folder: Path, settings: BergsonSettings, left_out: list[str]) -> None:
        self.model, self.folder, self.settings, self.left_out = model, folder, settings, left_out
        self.is_factored = settings.method not in ("trackstar", "cosine")

    def fit(self) -> None:
        """The Hessian of the rows, in the folder where the pipeline finds it done."""

        method = self.settings.method
        if method == "cosine":
            return
        where = f"hessian/{method}" if self.is_factored else "value_hessian"
        hessian = HessianConfig("autocorrelation") if method == "trackstar" else self._hessian()
        projection = 0 if self.is_factored else self.settings.projection
        (self.folder / "run" / where).parent.mkdir(parents=True)
        approximate_hessians(self._index(where, projection, self.settings.fit_rows), hessian)

    def score(self) -> None:

        query = QuerySetConfig(dataset=str(self.folder / "queries"))
        index = self._index("", self.settings.projection)
        inversion = InversionConfig(damping_factor=self.settings.damping, apply_batch_size=64)
        if self.is_factored:
            pipeline = HessianPipelineConfig(query=query, inversion_cfg=inversion, resume=True)
            hessian_pipeline(index, self._hessian(), ScoreConfig(), PreprocessConfig(), pipeline)
        elif self.settings.method == "trackstar":
            preprocess = PreprocessConfig(unit_normalize=True, inversion_cfg=inversion)
            trackstar(index, TrackstarConfig(query=query, preprocess_cfg=preprocess, mix_hessians=False, resume=True))
        else:
            self._score_by_cosine(query)

    def _score_by_cosine(self, query: QuerySetConfig) -> None:
        from bergson.config.config import PreprocessConfig, ScoreConfig

        preprocess, projection = PreprocessConfig(unit_normalize=True), self.settings.projection
        built = build_query(self._index("query", projection), query, preprocess)
        score_dataset(self._index("scores", projection), ScoreConfig(query_path=built), preprocess)

    def _hessian(self) -> HessianConfig:

        return HessianConfig(self.settings.method, ev_correction=self.settings.corrected)

    def _index(self, where: str, projection: int, num_rows: int = 0) -> IndexConfig:

        split = f"train[:{num_rows}]" if num_rows else "train"
        return IndexConfig(
            run_path=str(self.folder / "run" / where),
            model=self.model,
            data=DataConfig(dataset=str(self.folder / "rows"), split=split),
            distributed=DistributedConfig(nproc_per_node=1),
            projection_dim=projection,
            token_batch_size=self.settings.batch_tokens,
            max_batch_size=MAX_DOCUMENTS,
            filter_modules=",".join(self.left_out) or None,
        )


def _save(texts: list[Text], folder: Path) -> None:
    columns = {
        "input_ids": [text.input_ids for text in texts],
        "labels": [text.labels for text in texts],
        "length": [len(text.input_ids) for text in texts],
    }
    Dataset.from_dict(columns).save_to_disk(str(folder))
