"""What finf asks of a model: `loss(batch)`, `collate(examples)`, and the module whose parameters move."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from finf_core.losses import ExampleLoss


class Adapter(Protocol):
    """A model of one's own comes in through these three.

    `collate` makes a batch of examples (on the module's device); `loss` gives the loss of each
    example of a batch. Dropout is off and statistics are frozen: the module is in `eval()`.
    `len(example)` is its cost in tokens.
    """

    @property
    def module(self) -> nn.Module: ...

    def collate(self, examples: Sequence[Any]) -> Any: ...

    def loss(self, batch: Any) -> ExampleLoss: ...
