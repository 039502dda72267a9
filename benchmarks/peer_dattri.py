"""dattri 0.3.0 on the benchmark's inputs: its two methods for language models, LoGra and FactGraSS.

Both keep a projected gradient of every row and layer, whitened by the rows' own Fisher matrix. Rows and queries come
sorted by length, each batch padded to its own longest.
"""

import contextlib
import io
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from dattri import algorithm
from dattri.task import AttributionTask
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.peer_inputs import Clock, PeerInputs, Text, ToolScores, by_length, pad, put_back
from benchmarks.peer_settings import DattriSettings
from finf_core.losses import IGNORE_INDEX

Batch = dict[str, Tensor]


def run_dattri(inputs: PeerInputs, settings: DattriSettings) -> ToolScores:
    """The rows' projected gradients and their inverse Fisher matrix, then those of the queries."""
    rows, queries = inputs.rows, inputs.queries
    row_order, query_order = by_length(rows), by_length(queries)
    row_loader = _loader([rows[index] for index in row_order], settings)
    query_loader = _loader([queries[index] for index in query_order], settings)
    clock = Clock()
    layer_names = inputs.layer_names(settings.blocks)
    model = inputs.model
    for name in layer_names:  # no others: the backward pass ends at the first of them
        model.get_submodule(name).requires_grad_(True)
    task = AttributionTask(loss_func=_summed_nats, model=model, checkpoints=model.state_dict())
    with TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        torch.manual_seed(0)
        attributor = getattr(algorithm, f"{settings.method}Attributor")(
            task,
            layer_names=layer_names,
            hessian=settings.hessian,
            damping=settings.damping,
            proj_dim=settings.projection,
            offload="cpu",  # "none" keeps them in the same memory here
            cache_dir=folder,
        )
        attributor.cache(row_loader)
        fit = clock.lap()
        score_RQ = attributor.attribute(row_loader, query_loader).double().numpy()
        score = clock.lap()
    return ToolScores(put_back(score_RQ, row_order, query_order), fit, score)


def _loader(texts: list[Text], settings: DattriSettings) -> DataLoader[Any]:
    return DataLoader(texts, batch_size=settings.rows_per_batch, collate_fn=_collate)  # type: ignore[arg-type]


def _collate(texts: Sequence[Text]) -> Batch:
    input_ids_BT, labels_BT, _ = pad(texts)
    return {"input_ids": input_ids_BT, "labels": labels_BT}


def _summed_nats(model: Any, batch: Batch, device: str) -> Tensor:
    logits_NV = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits_NV, batch["labels"][:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
