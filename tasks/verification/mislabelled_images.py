"""The problem of the paper's non-convex check: Fashion-MNIST, half of it mislabelled, and the authors' network.

Name suffix: N training rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tasks.verification.cnn import TrainSettings, image_nats, pixels, train
from tasks.verification.groups import Kept
from tasks.verification.images import Images, Ints
from tasks.verification.mislabelled import draw_balanced, draw_groups, mislabel
from tasks.verification.products import Arrays


@dataclass(frozen=True)
class GroupSettings:
    """Sizes of the authors' Fashion-MNIST notebook (LOO-DualLOO-Group-Mislabel-Nonconvex, fmnist)."""

    num_train: int = 1050
    num_test: int = 5000  # the test group is drawn from these
    test_per_class: int = 50
    share_mislabelled: float = 0.5
    num_groups: int = 30
    num_inits: int = 5
    seed: int = 42
    training: TrainSettings = field(default_factory=TrainSettings)


class MislabelledImages:
    """A `tasks.verification.groups.GroupProblem`."""

    def __init__(self, settings: GroupSettings, train_images: Images, test_images: Images) -> None:
        self.training, self.num_rows = settings.training, settings.num_train
        generator = np.random.default_rng(settings.seed)
        mislabelled, rows = mislabel(train_images, settings.share_mislabelled, generator)
        self.shares = np.linspace(0, 1, settings.num_groups)
        self.groups: Sequence[Ints] = draw_groups(mislabelled, self.shares, generator)
        self.images, self.labels = pixels(rows), torch.from_numpy(rows.labels_N)
        test = test_images.take(draw_balanced(test_images.labels_N, settings.test_per_class, generator))
        self.test_images, self.test_labels = pixels(test), torch.from_numpy(test.labels_N)

    def measure(self, kept_N: Kept, with_test: bool, seed: int) -> Arrays:
        kept = torch.from_numpy(kept_N)
        images, labels = self.images[kept], self.labels[kept]
        if with_test:
            images, labels = torch.cat([images, self.test_images]), torch.cat([labels, self.test_labels])
        model = train(images, labels, torch.ones(len(labels)), self.training, seed)
        return {
            "rows": image_nats(model, self.images, self.labels).numpy(),
            "test": image_nats(model, self.test_images, self.test_labels).numpy(),
        }
