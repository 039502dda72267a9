"""Adam's second moments from a training run's `optimizer.pt`: the scale that the run itself divided gradients by."""

import io
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from finf_core.errors import InputError
from tasks import storage

# what torch.load and a look at what it gives raise of a file that is something else; weights_only: of code in it
NO_STATE = (
    *(pickle.UnpicklingError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, EOFError, OSError),
    *(OverflowError, AssertionError),
)


def read_adam_moments(uri: str, module: nn.Module) -> dict[str, Tensor]:
    """√(exp_avg_sq) of every parameter that has one, by parameter name.

    The file names parameters by number. Where it holds their names too (torch 2.6 and later) those are taken; else one
    group is in the order of `named_parameters`, and two are the matrices and then the rest (weight decay and none), as
    `transformers` writes them. Every shape must agree. Only tensors and numbers are unpickled (`weights_only`).

    Raises:
        InputError: not an Adam state, or not one of this model.
    """
    try:
        state = torch.load(io.BytesIO(storage.read_bytes(uri)), map_location="cpu", weights_only=True)
        moments = {index: entry["exp_avg_sq"] for index, entry in state["state"].items()}
        names = _names_of(state["param_groups"], module)
        if not moments:
            raise KeyError("exp_avg_sq")
        if not all(isinstance(moment, Tensor) and moment.is_floating_point() for moment in moments.values()):
            raise TypeError("exp_avg_sq")
    except NO_STATE as error:
        raise InputError(f"{uri}: want the state of an Adam optimizer as torch saves it") from error
    parameters = dict(module.named_parameters())
    found = {names[index]: moment for index, moment in moments.items() if index in names}
    if not found or len(found) != len(moments):
        raise InputError(f"{uri}: {len(moments)} moments, but only {len(found)} belong to a parameter of this model")
    for name, moment in found.items():
        if name not in parameters or parameters[name].shape != moment.shape:
            raise InputError(f"{uri}: the moment of {name} has shape {tuple(moment.shape)}: not of this model")
    return {name: moment.float().sqrt() for name, moment in found.items()}


def _names_of(groups: list[Mapping[str, Any]], module: nn.Module) -> dict[int, str]:
    indices = [index for group in groups for index in group["params"]]
    if all("param_names" in group for group in groups):
        return dict(zip(indices, (name for group in groups for name in group["param_names"]), strict=True))
    shapes = {name: parameter.ndim for name, parameter in module.named_parameters()}
    ordered = list(shapes) if len(groups) == 1 else sorted(shapes, key=lambda name: shapes[name] < 2)
    return dict(zip(indices, ordered, strict=False))
