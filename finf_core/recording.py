"""What reaches a layer and what comes back: its inputs, and the gradient of the loss at its outputs.

The model's parameters need no gradient for this, so none is computed for them.
Name suffixes: B rows, T positions.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

Recorder = Callable[[nn.Module, Tensor, Tensor, Tensor | None], None]  # layer, input, output gradient, mask


@contextmanager
def recording(
    layers: Mapping[str, nn.Module], recorders: Mapping[str, Recorder], mask_BT: Tensor | None = None
) -> Iterator[None]:
    """Each layer's recorder is called once for each of its runs, when the gradient at its output comes.

    Gradients start at the first of these layers' outputs: what comes before them runs forward only.

    Args:
        mask_BT: handed to the recorders; True where a position is no padding.
    """
    handles = [layer.register_forward_hook(_record(recorders[name], mask_BT)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record(recorder: Recorder, mask_BT: Tensor | None) -> Callable[..., Tensor]:
    """All is recorded when the gradient comes: a checkpointed layer runs forward twice, backward once."""

    def after_forward(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        given = inputs[0].detach()
        if not output.requires_grad:
            output = output.detach().requires_grad_().clone()  # a copy: a later layer may work in place
        serves_all_rows = isinstance(layer, nn.Embedding) and len(given) == 1  # positions: looked up once a batch
        if mask_BT is not None and serves_all_rows:
            given, output = (tensor.expand(len(mask_BT), *tensor.shape[1:]) for tensor in (given, output))
        output.register_hook(lambda gradient: recorder(layer, given, gradient.detach(), mask_BT))
        return output

    return after_forward
