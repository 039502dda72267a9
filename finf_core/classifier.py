"""The classifier adapter: any module that maps a batch of inputs to logits over classes.

Name suffixes: B examples, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from finf_core.errors import InputError
from finf_core.losses import ExampleLoss, per_example_loss


@dataclass(frozen=True)
class Labeled:
    """One example: an input of any shape and its class; it costs one token."""

    features: Tensor
    label: int

    def __len__(self) -> int:
        return 1


class LabeledBatch(NamedTuple):
    features_BX: Tensor
    labels_B: Tensor  # int64


class Classifier:
    """Adapter (`finf_core.adapter`) round a module whose output is logits (B, C); one target an example.

    Dropout is off and BatchNorm uses its stored statistics: the module is in `eval()`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval().requires_grad_(False)
        self._num_classes: int | None = None

    def collate(self, examples: Sequence[Labeled]) -> LabeledBatch:
        """Stack the inputs, on the module's device and, if they are floats, in its dtype.

        Raises:
            InputError: they differ in shape.
        """
        if len(shapes := {tuple(example.features.shape) for example in examples}) > 1:
            raise InputError(f"images of different sizes, {sorted(shapes)[:2]}; set model.images.size")
        parameter = next(self.module.parameters())
        features_BX = torch.stack([example.features for example in examples]).to(parameter.device)
        if features_BX.is_floating_point():
            features_BX = features_BX.to(parameter.dtype)
        return LabeledBatch(features_BX, torch.tensor([example.label for example in examples], device=parameter.device))

    @torch.no_grad()
    def num_classes(self, example: Labeled) -> int:
        """Told from the logits of any example, once."""
        if self._num_classes is None:
            self._num_classes = int(self.module(self.collate([example]).features_BX).shape[1])
        return self._num_classes

    @torch.no_grad()
    def log_probabilities(self, batch: LabeledBatch) -> Tensor:
        """Of every class, (B, C), float64."""
        log_BC: Tensor = self.module(batch.features_BX).double().log_softmax(-1)
        return log_BC

    def loss(self, batch: LabeledBatch) -> ExampleLoss:
        """Cross-entropy of each example, in nats."""
        logits_BC = self.module(batch.features_BX)
        return per_example_loss(logits_BC[:, None, :], batch.labels_B[:, None])

    @torch.no_grad()
    def sample_labels(self, batch: LabeledBatch, generator: torch.Generator) -> LabeledBatch:
        """The same batch with every label drawn from the model's own distribution (for the true Fisher)."""
        probabilities_BC = self.module(batch.features_BX).float().softmax(-1)
        return batch._replace(labels_B=torch.multinomial(probabilities_BC, 1, generator=generator)[:, 0])

    @torch.no_grad()
    def weigh_labels(self, batch: LabeledBatch) -> Iterator[tuple[LabeledBatch, Tensor]]:
        """Every label there is, with the model's probability of it (B,): the true Fisher without sampling."""
        probabilities_BC = self.module(batch.features_BX).double().softmax(-1)
        for label, weights_B in enumerate(probabilities_BC.unbind(1)):
            yield batch._replace(labels_B=torch.full_like(batch.labels_B, label)), weights_B
