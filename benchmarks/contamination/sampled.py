"""What is too slow for the whole corpus here: the released recipe, row gradients, embeddings; on a sample of the rows.

The sample holds every planted row of the queries asked, so these methods have less to tell apart than the whole corpus:
an advantage, which finf is given too where it is set beside them.
Name suffixes: R rows, Q queries, P parameters.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.contamination.inputs import CLEAN, CONTROL, Row, Truth
from benchmarks.contamination.lexical import minilm
from benchmarks.contamination.prepare import say
from finf_core.gradients import summed_gradient
from finf_core.scores import Floats, influence_score
from finf_core.scoring import score_rows
from finf_core.spec import ModelSpec, UpdateSpec
from finf_core.updates import mirrored_update
from finf_core.windows import Window
from tasks.checkpoint import load_language_model
from tasks.encode import encode_query, encode_rows
from tasks.loaded_model import TextModel

RELEASED = UpdateSpec(kind="adam", learning_rate=5e-3)  # Ko et al., arXiv:2402.08922: one Adam step, |change|
QUERIES_OF_KIND = {CLEAN: 15, CONTROL: 20}
LEAKS_OF_KIND = 5
OTHER_ROWS = 150
BATCH_TOKENS = 4096

Items = Sequence[Mapping[str, str]]


def sample_queries(items: Items, truths: Mapping[str, Truth]) -> list[Mapping[str, str]]:
    """The first few of each benchmark and kind; items were dealt at random."""
    seen: dict[tuple[str, str], int] = {}
    chosen = []
    for item in items:
        truth = truths[item["item_id"]]
        place = seen[truth.benchmark, truth.kind] = seen.get((truth.benchmark, truth.kind), 0) + 1
        if place <= QUERIES_OF_KIND.get(truth.kind, LEAKS_OF_KIND):
            chosen.append(item)
    return chosen


def sample_rows(rows: Sequence[Row], items: Items, truths: Mapping[str, Truth], seed: int) -> list[Row]:
    """All rows planted for these items, and others."""
    planted = {document_id for item in items for document_id in truths[item["item_id"]].document_ids}
    others = [row for row in rows if row[0] not in planted]
    return [row for row in rows if row[0] in planted] + random.Random(seed).sample(others, min(OTHER_ROWS, len(others)))


def released_scores(folder: Path, rows: Sequence[Row], items: Items) -> Floats:
    """|change of the mean loss| of each row after one Adam step away from each query, (R, Q)."""
    model, examples = _load(folder, rows)
    columns: list[Floats] = []
    base = None  # the base model's losses, which all queries share
    for place, windows in enumerate(_query_windows(folder, model, items)):
        update = mirrored_update(model.adapter, windows, RELEASED)
        losses = score_rows(model.adapter, examples, [update], BATCH_TOKENS, base=base)
        base = losses.base
        change_R = influence_score(losses.base_nats_R, losses.mirrored_nats_RQ[:, 0], "ascent")
        columns.append(np.abs(change_R) / losses.num_targets_R)
        if place % 20 == 0:
            say(f"  released recipe: {place} of {len(items)} queries")
    return np.stack(columns, axis=1)


def cosine_scores(folder: Path, rows: Sequence[Row], items: Items) -> Floats:
    """Cosine of the gradients of row and query, all parameters, (R, Q)."""
    model, examples = _load(folder, rows)
    queries_QP = torch.stack([_unit_gradient(model, query) for query in _query_windows(folder, model, items)])
    return torch.stack([queries_QP @ _unit_gradient(model, row) for row in examples]).double().numpy()


def embedding_scores(folder: Path, rows: Sequence[Row], items: Items) -> Floats:
    """Cosine of the embeddings of row and whole item, (R, Q): no gradient, and slow on a CPU."""
    return minilm([text for _, text in rows], [item["context"] + item["target"] for item in items])


def _unit_gradient(model: TextModel, windows: Sequence[Window]) -> Tensor:
    parameters = dict(model.adapter.module.named_parameters())
    gradient = summed_gradient(model.adapter, [model.adapter.collate([window]) for window in windows], parameters)
    parts = [gradient.get(name, torch.zeros_like(parameter)).flatten() for name, parameter in parameters.items()]
    return torch.nn.functional.normalize(torch.cat(parts), dim=0)


def _load(folder: Path, rows: Sequence[Row]) -> tuple[TextModel, list[list[Window]]]:
    spec = ModelSpec(path=str(folder / "model"))
    model = load_language_model(spec)
    return model, encode_rows(model, spec, [text for _, text in rows])


def _query_windows(folder: Path, model: TextModel, items: Items) -> Iterator[list[Window]]:
    spec = ModelSpec(path=str(folder / "model"))
    yield from (encode_query(model, spec, item["context"], item["target"]) for item in items)
