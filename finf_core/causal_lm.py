"""The causal language model adapter: any Hugging Face decoder whose logits are `head(hidden)`.

Name suffixes: B windows, T positions, D hidden units, V vocabulary entries.
Rows are padded on the right and get no attention mask: a causal model never looks there.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from finf_core.errors import CheckpointError
from finf_core.kernel_check import check_kernels
from finf_core.kernels import compile_blocks
from finf_core.losses import (
    IGNORE_INDEX,
    ExampleLoss,
    chunk_targets,
    chunked_example_loss,
    draw_labels,
    log_probabilities,
    sampled_example_loss,
    target_places,
)
from finf_core.moving import block_list
from finf_core.windows import Window

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOLERANCE = 1e-3  # nats per target, head(hidden) against the model's own logits


class TokenBatch(NamedTuple):
    input_ids_BT: Tensor  # int64
    labels_BT: Tensor  # int64, shifted, IGNORE_INDEX where nothing is predicted
    lengths_B: Tensor  # int64, inputs that are not padding
    places_N: Tensor | None = None  # `target_places(labels_BT)`, found on the host

    @property
    def is_input_BT(self) -> Tensor:
        """True where a position holds a token of the window, False on padding."""
        positions_T = torch.arange(self.input_ids_BT.shape[1], device=self.lengths_B.device)
        return positions_T < self.lengths_B[:, None]


class CausalLM:
    """Adapter (`finf_core.adapter`) round a `transformers` causal language model.

    Args:
        compiled: run the blocks and the loss in compiled kernels (`finf_core.kernels`), after checking them.
    """

    def __init__(self, model: "PreTrainedModel", compiled: bool = False) -> None:
        self.model = model.eval().requires_grad_(False)
        self.module: nn.Module = self.model
        self.head = model.get_output_embeddings()
        if self.head is None or model.base_model is model:
            raise CheckpointError(f"{type(model).__name__} has no language-model head over a base model")
        self.num_vocabulary = int(self.head.weight.shape[0])
        self.compiled = False
        self._check_head()
        if compiled and len(block_list(model)[1]):
            compile_blocks(self.module)
            self.compiled = True
            check_kernels(self)

    @property
    def max_context_tokens(self) -> int | None:
        """The longest input the model was built for, where its config says so."""
        value = getattr(self.model.config, "max_position_embeddings", None)
        return int(value) if value else None

    def collate(self, examples: Sequence[Window]) -> TokenBatch:
        """Pad windows on the right to the longest; id 0 stands in padding and is never a target."""
        lengths = [len(window) for window in examples]
        inputs_BT = torch.zeros(len(examples), max(lengths), dtype=torch.int64)
        labels_BT = torch.full_like(inputs_BT, IGNORE_INDEX)
        for index, window in enumerate(examples):
            inputs_BT[index, : len(window)] = torch.from_numpy(window.input_ids)
            labels_BT[index, : len(window)] = torch.from_numpy(window.labels)
        parts = (inputs_BT, labels_BT, torch.tensor(lengths), target_places(labels_BT))
        return TokenBatch(*(_placed(part, self.head.weight.device) for part in parts))

    def loss(self, batch: TokenBatch) -> ExampleLoss:
        """Loss of each window; see `finf_core.losses`."""
        return self.loss_of_hidden(self.hidden(batch), batch)

    def loss_of_hidden(self, hidden_BTD: Tensor, batch: TokenBatch) -> ExampleLoss:
        """The same from what the language-model head reads."""
        return chunked_example_loss(
            hidden_BTD, self.head, self.num_vocabulary, batch.labels_BT, batch.places_N, self.compiled
        )

    @torch.no_grad()
    def sample_labels(self, batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
        """The same batch with every target drawn from the model's own distribution (for the true Fisher)."""
        is_target_BT = batch.labels_BT != IGNORE_INDEX
        hidden_ND = self.hidden(batch)[is_target_BT]
        pieces = [
            draw_labels(log_probabilities(self.head(hidden_CD)).exp(), generator)
            for hidden_CD in hidden_ND.split(chunk_targets(self.num_vocabulary, hidden_ND.device))
        ]
        return batch._replace(labels_BT=batch.labels_BT.masked_scatter(is_target_BT, torch.cat(pieces)))

    def sampled_loss(self, batch: TokenBatch, generator: torch.Generator) -> ExampleLoss:
        """The loss on the labels that `sample_labels` would draw, from one forward pass for both."""
        hidden_BTD = self.hidden(batch)
        return sampled_example_loss(
            hidden_BTD, self.head, self.num_vocabulary, batch.labels_BT, generator, batch.places_N
        )

    def hidden(self, batch: TokenBatch) -> Tensor:
        """(B, T, D): what the language-model head reads."""
        hidden: Tensor = self.model.base_model(input_ids=batch.input_ids_BT, use_cache=False).last_hidden_state
        return hidden

    @torch.no_grad()
    def _check_head(self) -> None:
        """Some models scale or cap their logits after the head; scoring those as head(hidden) would be wrong."""
        ids_BT = torch.arange(8, device=self.head.weight.device)[None] % self.num_vocabulary
        hidden = self.model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        ours, theirs = self.head(hidden), self.model(input_ids=ids_BT, use_cache=False).logits
        gap = (ours.float().log_softmax(-1) - theirs.float().log_softmax(-1)).abs().max().item()
        if not gap <= PROBE_TOLERANCE:
            raise CheckpointError(
                f"{type(self.model).__name__} changes its logits after the head (by {gap:.3g} nats); not supported"
            )


def _placed(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; a GPU fetches it while the host goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
