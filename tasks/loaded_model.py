"""A model on an actor: what every stage asks of it, whatever its rows are."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from finf_core.adapter import Adapter
from finf_core.causal_lm import CausalLM
from finf_core.chat import Chat
from finf_core.wide import COARSE
from tasks.items import Item, ItemReader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GRADIENT_SHARE = {"cpu": 1, "cuda": 4}  # a pass with gradients keeps what the blocks saw: so many times smaller batches


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """An adapter, and how much it is given at once; an example is a window of text, or an item."""

    adapter: Adapter
    batch_tokens: int  # padded tokens in one forward pass; of items, how many
    context_tokens: int = 1  # the longest example
    tokenizer: "PreTrainedTokenizerBase | None" = None
    chat: Chat | None = None

    def with_halved_batches(self, times: int) -> Self:
        """The same model; a batch is never smaller than its longest example."""
        return replace(self, batch_tokens=max(min(self.context_tokens, self.batch_tokens), self.batch_tokens >> times))

    @property
    def gradient_batch_tokens(self) -> int:
        """Padded tokens in one forward and backward pass."""
        return max(1, self.batch_tokens // GRADIENT_SHARE[self._weight.device.type])

    @property
    def is_coarse(self) -> bool:
        return self._weight.dtype in COARSE

    @property
    def compiled(self) -> bool:
        return bool(getattr(self.adapter, "compiled", False))

    @property
    def head(self) -> nn.Module | None:
        """The language-model head, whose outputs are a vocabulary."""
        return getattr(self.adapter, "head", None)

    @property
    def _weight(self) -> torch.Tensor:
        return next(self.adapter.module.parameters())


@dataclass(frozen=True, kw_only=True)
class TextModel(LoadedModel):
    """A causal language model with its tokenizer."""

    adapter: CausalLM
    tokenizer: "PreTrainedTokenizerBase"
    chat: Chat


@dataclass(frozen=True, kw_only=True)
class ItemModel(LoadedModel):
    """A model of items, each of which is one example."""

    reader: ItemReader
    example: Callable[[Item], Any]


def as_text(model: LoadedModel) -> TextModel:
    """Where rows are known to be text."""
    if not isinstance(model, TextModel):
        raise TypeError(f"text, and a model of {type(model).__name__}")
    return model
