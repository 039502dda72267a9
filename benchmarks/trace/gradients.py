"""Every first-order recipe from one pass of exact row gradients: slow, but nothing is projected away.

A recipe turns the gradient of a query's mean loss into a direction d; a row's score is ∇l(row) · d. For the dot product
(TracIn at the last checkpoint) d is the gradient itself; for finf it is what the mirrored update moves along.
Name suffixes: R rows, Q queries, P parameters, B a few rows at once, D directions of all recipes and queries.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from finf_core.curvature import Curvature, curvature_from_tensors, fit_curvature
from finf_core.gradients import Gradients, summed_gradient
from finf_core.scores import Floats, Ints, control_z, other_ratios
from finf_core.spec import UpdateSpec
from finf_core.windows import Window
from tasks.loaded_model import TextModel

ROWS_AT_ONCE = 64
EMBEDDINGS = "*embed_tokens*"
ADAM_EPSILON = 1e-8

Rows = Sequence[Sequence[Window]]
Recipe = Callable[[Gradients], Gradients]  # gradient of the query's mean loss -> direction; parts left out do not move


@dataclass(frozen=True)
class Products:
    """Of one recipe."""

    dot_RQ: Floats  # nats of a row for a step of 1
    slope_Q: Floats  # nats per target of the query, likewise
    norm_R: Floats  # of the row's gradient, where the recipe moves something

    def orders(self, num_targets_R: Ints) -> dict[str, Floats]:
        """The same products, normalised in all the ways that are tried."""
        row_RQ = self.dot_RQ / num_targets_R[:, None] / self.slope_Q
        return {
            "score": self.dot_RQ,
            "row_ratio": row_RQ,
            "control_z": control_z(row_RQ, other_ratios(row_RQ)),
            "over the row's gradient": self.dot_RQ / np.maximum(self.norm_R, 1e-12)[:, None],
        }


def make_recipes(model: TextModel, sample: Rows) -> dict[str, Recipe]:
    """What is tried: update kinds, damping, and which parameters move."""
    module = model.adapter.module
    fitted = {kind: _fit(model, sample, kind) for kind in ("kfac", "ekfac")}
    kfac = {damping: _damped(fitted["kfac"], damping) for damping in (1.0, 0.1, 0.01, 0.001)}
    last = f"*layers.{module.config.num_hidden_layers - 1}.*"
    return {
        "gradient": dict,
        "gradient without embeddings": lambda g: _without(g, EMBEDDINGS),
        "adam": lambda g: {name: part / (part.abs() + ADAM_EPSILON) for name, part in g.items()},
        **{f"kfac, damping {damping:g}": _preconditioned(kfac[damping], module) for damping in kfac},
        "ekfac": _preconditioned(fitted["ekfac"], module),
        "kfac, last block": _preconditioned(kfac[0.1], module, last),
        "kfac, first blocks": lambda g: _without(_preconditioned(kfac[0.1], module)(g), last),
        "kfac, MLPs": _preconditioned(kfac[0.1], module, "*.mlp.*"),
        "kfac, MLPs, damping 0.01": _preconditioned(kfac[0.01], module, "*.mlp.*"),
        "kfac, attention": _preconditioned(kfac[0.1], module, "*.self_attn.*"),
    }


def row_products(
    model: TextModel, rows: Rows, queries: Rows, recipes: Mapping[str, Recipe], tell: Callable[[str], None]
) -> dict[str, Products]:
    """Every row's gradient once, against every query's direction under every recipe."""
    parameters = dict(model.adapter.module.named_parameters())
    gradients = [_mean_gradient(model, query, parameters) for query in queries]
    directions_DP, slopes, masks = [], {}, {}
    for name, recipe in recipes.items():
        moved = [recipe(gradient) for gradient in gradients]
        slopes[name] = np.array([_dot(g, d) for g, d in zip(gradients, moved, strict=True)])
        masks[name] = torch.cat([torch.full((p.numel(),), float(key in moved[0])) for key, p in parameters.items()])
        directions_DP += [_flat(each, parameters) for each in moved]
    stacked_DP, masks_MP = torch.stack(directions_DP), torch.stack(list(masks.values()))
    del directions_DP, gradients
    dots, squares = [], []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = [
            summed_gradient(model.adapter, [model.adapter.collate(row)], parameters)
            for row in rows[start : start + ROWS_AT_ONCE]
        ]
        block_BP = torch.stack([_flat(each, parameters) for each in block])
        dots.append(block_BP @ stacked_DP.T)
        squares.append((block_BP**2) @ masks_MP.T)
        if start % (ROWS_AT_ONCE * 20) == 0:
            tell(f"row gradients: {start:,} of {len(rows):,}")
    dot_RD, square_RM = torch.cat(dots).double().numpy(), torch.cat(squares).double().numpy()
    return {
        name: Products(
            dot_RD[:, place * len(queries) : (place + 1) * len(queries)], slopes[name], square_RM[:, place] ** 0.5
        )
        for place, name in enumerate(recipes)
    }


def _fit(model: TextModel, sample: Rows, kind: str) -> Curvature:
    curvature = fit_curvature(model.adapter, sample, UpdateSpec(kind=kind), model.batch_tokens)  # type: ignore[arg-type]
    assert curvature is not None
    return curvature


def _damped(curvature: Curvature, damping: float) -> Curvature:
    return curvature_from_tensors(UpdateSpec(kind="kfac", damping=damping), curvature.tensors())


def _preconditioned(curvature: Curvature, module: nn.Module, pattern: str = "*") -> Recipe:
    def recipe(gradients: Gradients) -> Gradients:
        moving = {name: part for name, part in gradients.items() if curvature.moves(name)}
        direction = curvature.precondition(module, moving)
        return {name: part for name, part in direction.items() if fnmatchcase(name, pattern)}

    return recipe


def _without(gradients: Gradients, pattern: str) -> Gradients:
    return {name: part for name, part in gradients.items() if not fnmatchcase(name, pattern)}


def _mean_gradient(model: TextModel, query: Sequence[Window], parameters: Mapping[str, nn.Parameter]) -> Gradients:
    batch = model.adapter.collate(query)
    with torch.no_grad():
        num_targets = int(model.adapter.loss(batch).num_targets.sum())
    return {name: part / num_targets for name, part in summed_gradient(model.adapter, [batch], parameters).items()}


def _dot(first: Gradients, second: Gradients) -> float:
    return sum(float((first[name] * part).sum()) for name, part in second.items())


def _flat(parts: Gradients, parameters: Mapping[str, nn.Parameter]) -> Tensor:
    zeros = (parts.get(name, torch.zeros_like(parameter)) for name, parameter in parameters.items())
    return torch.cat([part.detach().float().flatten() for part in zeros])
