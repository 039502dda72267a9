"""What every tool of `benchmarks.peers` is given: the same model, rows and queries, and how its scores are graded.

Name suffixes: R rows, Q queries, n tokens of one text.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from finf_core.causal_lm import CausalLM
from finf_core.layers import is_linear
from finf_core.losses import IGNORE_INDEX
from finf_core.moving import block_list
from finf_core.projection import last_blocks
from finf_core.recall import mean_recall_at_k
from finf_core.scores import Floats, Ints, control_z, other_ratios
from finf_core.spec import ScanSpec
from finf_core.windows import Window
from tasks.checkpoint import load_language_model
from tasks.config import load_config
from tasks.demo.corpus import read_demo_rows
from tasks.demo.evaluate import LEAKED_KINDS
from tasks.encode import encode_query, encode_rows
from tasks.queries import load_queries


@dataclass(frozen=True)
class Text:
    """One row or query as a Hugging Face model takes it."""

    input_ids: list[int]  # (n,)
    labels: list[int]  # (n,), not shifted; IGNORE_INDEX where a token is read but not scored

    @property
    def num_targets(self) -> int:
        return sum(label != IGNORE_INDEX for label in self.labels[1:])


@dataclass(frozen=True)
class PeerInputs:
    spec: ScanSpec
    adapter: CausalLM
    row_windows: list[list[Window]]
    query_windows: list[list[Window]]
    kinds: list[str]  # of each query: verbatim, renamed, clean
    true_rows: list[int | None]  # the planted row of each query

    @property
    def model(self) -> PreTrainedModel:
        model: PreTrainedModel = self.adapter.model
        return model

    @property
    def rows(self) -> list[Text]:
        return [_text(windows) for windows in self.row_windows]

    @property
    def queries(self) -> list[Text]:
        return [_text(windows) for windows in self.query_windows]

    @property
    def num_targets_R(self) -> Ints:
        return np.array([text.num_targets for text in self.rows])

    def layer_names(self, num_blocks: int) -> list[str]:
        """The linear layers of the last blocks (0: of all), without the head: what a tool moves or differentiates."""
        modules = dict(self.model.named_modules())
        layers = {name: layer for name, layer in modules.items() if is_linear(layer) and layer is not self.adapter.head}
        num_all = len(block_list(self.model)[1])
        return list(last_blocks(self.model, layers, num_blocks or num_all))


class Took(NamedTuple):
    seconds: float  # by the clock: what a busy machine makes longer
    cpu_seconds: float  # of this process, all its threads


class Clock:
    """Time since it was made, lap by lap."""

    def __init__(self) -> None:
        self.last = Took(time.perf_counter(), time.process_time())

    def lap(self) -> Took:
        now = Took(time.perf_counter(), time.process_time())
        took = Took(now.seconds - self.last.seconds, now.cpu_seconds - self.last.cpu_seconds)
        self.last = now
        return took


@dataclass(frozen=True)
class ToolScores:
    """Scores of every row for every query, higher = more coupled, and what they took."""

    score_RQ: Floats
    fit: Took  # once per model: factors, preconditioner
    score: Took  # everything that knows a query, or (dattri) that follows the rows' gradients
    orders: dict[str, Floats] | None = None  # ways to order rows that are the tool's own; None: `orders_of_peer`


def load_inputs(config: Path, num_rows: int | None = None, num_queries: int | None = None) -> PeerInputs:
    """All of the demo's inputs, or the first rows and queries (a planted row that is asked for always stays)."""
    spec = load_config(config)
    truths = json.loads((config.parent / "truth.json").read_text())
    queries = load_queries(spec.queries)
    chosen = queries if num_queries is None else queries[:: max(1, len(queries) // num_queries)]
    wanted = {truths[query.query_id]["document_id"] for query in chosen}
    rows = read_demo_rows(Path(spec.corpus.path))
    rows = [row for index, row in enumerate(rows) if num_rows is None or index < num_rows or row.document_id in wanted]
    place = {row.document_id: index for index, row in enumerate(rows)}
    model = load_language_model(spec.model)
    return PeerInputs(
        spec=spec,
        adapter=model.adapter,
        row_windows=encode_rows(model, spec.model, [row.text for row in rows]),
        query_windows=[encode_query(model, spec.model, query) for query in chosen],
        kinds=[truths[query.query_id]["kind"] for query in chosen],
        true_rows=[place.get(truths[query.query_id]["document_id"]) for query in chosen],
    )


def _text(windows: Sequence[Window]) -> Text:
    [window] = windows  # rows and queries of the demo fit the model's context
    ids = [*window.input_ids.tolist(), int(window.labels[-1])]
    return Text(ids, [IGNORE_INDEX, *window.labels.tolist()])


def by_length(texts: Sequence[Text]) -> list[int]:
    """Indices of the texts, longest first: little padding, and what does not fit memory shows at once."""
    return sorted(range(len(texts)), key=lambda index: -len(texts[index].input_ids))


def pad(texts: Sequence[Text]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, labels (not shifted) and whether a position holds a token: (B, T), padded on the right."""
    ids = [torch.tensor(text.input_ids) for text in texts]
    labels = [torch.tensor(text.labels) for text in texts]
    is_input = [torch.ones(len(text.input_ids), dtype=torch.bool) for text in texts]
    return (
        pad_sequence(ids, batch_first=True),
        pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        pad_sequence(is_input, batch_first=True),
    )


def put_back(score_RQ: Floats, row_order: Sequence[int], query_order: Sequence[int]) -> Floats:
    """Scores of sorted rows and queries in the order of the inputs."""
    result = np.empty_like(score_RQ)
    result[np.ix_(np.asarray(row_order), np.asarray(query_order))] = score_RQ
    return result


def orders_of_peer(score_RQ: Floats, num_targets_R: Ints) -> dict[str, Floats]:
    """Three ways to order rows by a peer's scores: its own, ours by length, and ours against the other queries.

    The last lends the peer finf's own `control_z`; each query's scores are first divided by their largest.
    """
    per_target_RQ = score_RQ / np.maximum(num_targets_R, 1)[:, None]
    scaled_RQ = per_target_RQ / np.maximum(np.abs(per_target_RQ).max(axis=0, keepdims=True), 1e-30)
    return {
        "score": score_RQ,
        "score_per_target": per_target_RQ,
        "lent_control_z": control_z(scaled_RQ, other_ratios(scaled_RQ)),
    }


def recalls(order_RQ: Floats, inputs: PeerInputs) -> dict[str, float]:
    """recall@1 and recall@5 for each kind of leak."""
    order_RQ = np.where(np.isfinite(order_RQ), order_RQ, -np.inf)
    found: dict[str, float] = {}
    for kind in LEAKED_KINDS:
        asked = [query for query, its_kind in enumerate(inputs.kinds) if its_kind == kind]
        rankings = [np.argsort(-order_RQ[:, query], kind="stable")[:5].tolist() for query in asked]
        truths = [inputs.true_rows[query] for query in asked]
        found |= {f"{kind}_at_{k}": mean_recall_at_k(rankings, truths, k) for k in (1, 5)}
    return found


def best_order(recall: Mapping[str, Mapping[str, float]]) -> str:
    """The order that finds most of the reworded leaks among the first five, then of the copies."""
    places = ("renamed_at_5", "verbatim_at_5", "renamed_at_1")
    return max(recall, key=lambda order: tuple(recall[order][place] for place in places))
