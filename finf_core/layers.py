"""How each kind of layer is seen as y = W a: its weight as a matrix, its inputs and output gradients as rows.

| layer | a | what happens under K-FAC and EK-FAC |
|---|---|---|
| `Linear`, GPT-2's `Conv1D` | the input | A and G, both full |
| `Conv2d` (one group) | the patch under the kernel, each place a position | A and G, both full (arXiv:1602.01407) |
| `Embedding` | a one-hot token | A is diagonal (token frequencies), G full; only with `update.embeddings` |
| untied language-model head | the last hidden state | A full, G diagonal; only with `update.embeddings` |
| tied head | | stays where it is: it is an embedding and a head at once, with two different curvatures |
| norms, depthwise convolutions, experts fused into one 3-D parameter | | stay where they are |

So no vocabulary x vocabulary factor is ever formed.

Name suffixes: B examples, T positions, I inputs (with the bias' 1), O outputs, V vocabulary entries.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST_FACTOR = 16_384  # more outputs or inputs than this: that side's factor is diagonal


def factored_layers(
    module: nn.Module, moving: Iterable[str], head: nn.Module | None = None, embeddings: bool = False
) -> dict[str, nn.Module]:
    """The layers that get Kronecker factors, by name, among those with a moving weight.

    Args:
        head: the language-model head; left out unless `embeddings`, and always when it is tied.
        embeddings: token embeddings and the untied head move too.
    """
    names = set(moving)
    layers = {}
    for name, layer in module.named_modules():
        if parameter_name(name, "weight") not in names or not (
            is_linear(layer) or _is_plain_conv(layer) or _is_embedding(layer)
        ):
            continue
        is_vocabulary = layer is head or _is_embedding(layer)
        if not is_vocabulary or (embeddings and not _is_tied(layer, module)):
            layers[name] = layer
    return layers


def parameter_name(layer_name: str, key: str) -> str:
    """ "weight" or "bias" of a layer, as the module names it; a module that is itself the layer has the name ""."""
    return f"{layer_name}.{key}" if layer_name else key


def has_diagonal_inputs(layer: nn.Module) -> bool:
    return _is_embedding(layer) or num_inputs(layer) > LARGEST_FACTOR


def has_diagonal_outputs(layer: nn.Module, head: nn.Module | None) -> bool:
    return layer is head or num_outputs(layer) > LARGEST_FACTOR


def num_inputs(layer: nn.Module) -> int:
    return int(weight_matrix(layer, layer.get_parameter("weight")).shape[1]) + has_bias(layer)


def num_outputs(layer: nn.Module) -> int:
    return int(weight_matrix(layer, layer.get_parameter("weight")).shape[0])


def has_bias(layer: nn.Module) -> bool:
    return getattr(layer, "bias", None) is not None


def weight_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """A parameter shaped like the layer's weight, as (outputs, inputs)."""
    return weight.T if _is_transposed(layer) else weight.flatten(1)


def from_weight_matrix(layer: nn.Module, matrix_OI: Tensor) -> Tensor:
    """The inverse of `weight_matrix`."""
    weight = layer.get_parameter("weight")
    return matrix_OI.T if _is_transposed(layer) else matrix_OI.view_as(weight)


def input_rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What the layer multiplies, (B, T, I), with a last 1 for the bias; token ids (B, T) for an embedding."""
    if _is_embedding(layer):
        return inputs
    if isinstance(layer, nn.Conv2d):
        padded = F.pad(inputs, _padding(layer))
        patches_BIT = F.unfold(padded, layer.kernel_size, layer.dilation, stride=layer.stride)
        rows_BTI = patches_BIT.transpose(1, 2)
    else:
        rows_BTI = _as_rows(inputs)
    if not has_bias(layer):
        return rows_BTI
    return torch.cat([rows_BTI, rows_BTI.new_ones(*rows_BTI.shape[:2], 1)], dim=2)


def output_rows(layer: nn.Module, gradient: Tensor) -> Tensor:
    """The gradient at the layer's output as (B, T, O)."""
    return gradient.flatten(2).transpose(1, 2) if isinstance(layer, nn.Conv2d) else _as_rows(gradient)


def _as_rows(tensor: Tensor) -> Tensor:
    """(B, ..., features) as (B, T, features); without positions each example is one."""
    return tensor[:, None] if tensor.ndim == 2 else tensor.flatten(1, -2)


def is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"


def _is_plain_conv(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"


def _is_embedding(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Embedding)


def _is_transposed(layer: nn.Module) -> bool:
    """`Conv1D` and embeddings keep their weight as (inputs, outputs)."""
    return _is_embedding(layer) or type(layer).__name__ == "Conv1D"


def _is_tied(layer: nn.Module, module: nn.Module) -> bool:
    weight = layer.get_parameter("weight")
    users = [other for other in module.modules() if other._parameters.get("weight") is weight]
    return len(users) > 1


def _padding(layer: nn.Conv2d) -> list[int]:
    """Zeros left, right, above and below; where "same" wants an odd number the later side gets one more."""
    if not isinstance(layer.padding, str):
        return [side for size in reversed(layer.padding) for side in (size, size)]
    reach = [dilation * (size - 1) for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    return (
        [side for size in reversed(reach) for side in (size // 2, size - size // 2)] if layer.padding == "same" else []
    )
