"""The non-convex check: groups of rows as the paper has it, then single rows, which it does not show."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tasks.progress import Meter
from tasks.verification.groups import Groups
from tasks.verification.images import Images, split
from tasks.verification.mislabelled_images import GroupSettings, MislabelledImages
from tasks.verification.points import Points, PointSettings
from tasks.verification.products import Products

PUBLISHED = {"pearson": 0.975, "spearman": 0.992}  # Fashion-MNIST; Ko et al. 2024, arXiv:2402.08922


@dataclass(frozen=True)
class NonconvexSettings:
    groups: GroupSettings = field(default_factory=GroupSettings)
    points: PointSettings = field(default_factory=PointSettings)


class Nonconvex:
    """One run: its stages, in order, and what they found."""

    def __init__(self, settings: NonconvexSettings, images: Images, products: Products) -> None:
        groups, points = settings.groups, settings.points
        self.products = products
        of_groups = MislabelledImages(groups, *split(images, groups.num_train, groups.num_test, groups.seed))
        self.groups = Groups(of_groups, groups.num_inits, groups.seed, products)
        self.points = Points(points, *split(images, points.num_train, points.num_test, points.seed), products)

    def stages(self, meter: Meter) -> list[tuple[str, Callable[[], object]]]:
        return [
            ("train on groups", lambda: self.groups.train_all(meter)),
            ("train on points", lambda: self.points.train_all(meter)),
        ]

    def result(self) -> dict[str, Any]:
        return {**self.groups.result(), "published": PUBLISHED, "points": self.points.result()}
