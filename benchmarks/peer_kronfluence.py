"""kronfluence 1.0.1 on the benchmark's inputs: EK-FAC or K-FAC, all queries in one pass over the rows.

Rows and queries come sorted by length, each batch padded to its own longest.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.common.score_arguments import default_score_arguments, smart_low_precision_score_arguments
from kronfluence.utils.dataset import DataLoaderKwargs
from kronfluence.utils.state import State
from torch import Tensor, nn

from benchmarks.peer_inputs import Clock, PeerInputs, Text, ToolScores, by_length, pad, put_back
from benchmarks.peer_settings import KronfluenceSettings
from finf_core.losses import IGNORE_INDEX

QUERIES_PER_BATCH = 16

Batch = dict[str, Tensor]


def run_kronfluence(inputs: PeerInputs, settings: KronfluenceSettings) -> ToolScores:
    """Factors on the sample, then all pairs; what it writes goes to a folder that is then dropped."""
    rows, queries = inputs.rows, inputs.queries
    sample = rows[: settings.fit_rows or len(rows)]
    row_order, query_order, sample_order = by_length(rows), by_length(queries), by_length(sample)
    clock = Clock()
    task = _SummedNats(inputs.layer_names(settings.blocks) + ["lm_head"] * settings.with_head)
    model = prepare_model(inputs.model.requires_grad_(True), task)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*GradScaler", FutureWarning)  # of kronfluence, without a GPU
        torch.manual_seed(0)
        analyzer = Analyzer("peers", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=_collate))
        analyzer.fit_all_factors(
            "factors",
            [sample[index] for index in sample_order],
            per_device_batch_size=settings.rows_per_batch,
            factor_args=FactorArguments(settings.strategy),
        )
        fit = clock.lap()
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            [queries[index] for index in query_order],
            [rows[index] for index in row_order],
            per_device_query_batch_size=QUERIES_PER_BATCH,
            per_device_train_batch_size=settings.rows_per_batch,
            score_args=_score_arguments(settings, len(queries)),
        )
        score_RQ = analyzer.load_pairwise_scores("scores")["all_modules"].double().numpy().T
        score = clock.lap()
    State._reset_state()  # it keeps the first device it saw for the life of the process
    return ToolScores(put_back(score_RQ, row_order, query_order), fit, score)


def _score_arguments(settings: KronfluenceSettings, num_queries: int) -> ScoreArguments:
    make = smart_low_precision_score_arguments if settings.bfloat16 else default_score_arguments
    found = partial(make, damping_factor=None)(query_gradient_low_rank=settings.low_rank)
    found.query_gradient_accumulation_steps = num_queries  # gather all query batches, then one pass over the rows
    return found


def _collate(texts: Sequence[Text]) -> Batch:
    input_ids_BT, labels_BT, is_input_BT = pad(texts)
    return {"inputs": input_ids_BT[:, :-1], "labels": labels_BT[:, 1:], "is_input": is_input_BT[:, 1:].long()}


class _SummedNats(Task):  # type: ignore[misc]
    """The loss of a batch as kronfluence wants it: nats summed, labels of the data or of the model's own."""

    def __init__(self, layer_names: list[str]) -> None:
        self.layer_names = layer_names

    def compute_train_loss(self, batch: Batch, model: nn.Module, sample: bool = False) -> Tensor:
        logits_NV = model(input_ids=batch["inputs"], use_cache=False).logits.flatten(0, 1).float()
        labels_N = batch["labels"].flatten()
        if sample:
            with torch.no_grad():
                drawn_N = torch.multinomial(logits_NV.softmax(-1), 1)[:, 0]
            labels_N = torch.where(labels_N == IGNORE_INDEX, labels_N, drawn_N)
        return F.cross_entropy(logits_NV, labels_N, ignore_index=IGNORE_INDEX, reduction="sum")

    def compute_measurement(self, batch: Batch, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self.layer_names

    def get_attention_mask(self, batch: Batch) -> Tensor:
        return batch["is_input"]
