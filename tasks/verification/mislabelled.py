"""Rows with wrong labels, groups with a given share of them, and a test group with every class equally often.

Name suffix: N rows.
"""

import numpy as np
import numpy.typing as npt

from tasks.verification.agreement import Floats
from tasks.verification.images import NUM_CLASSES, Images, Ints


def mislabel(rows: Images, share: float, generator: np.random.Generator) -> tuple[npt.NDArray[np.bool_], Images]:
    """A share of the rows gets another label, any of the others alike; which they are, and the rows."""
    is_wrong_N = np.zeros(len(rows.labels_N), dtype=bool)
    is_wrong_N[
        generator.permutation(len(rows.labels_N))[: len(rows.labels_N) - int((1 - share) * len(rows.labels_N))]
    ] = True
    shift_N = generator.integers(1, NUM_CLASSES, len(rows.labels_N))
    return is_wrong_N, Images(
        rows.pixels_NP, np.where(is_wrong_N, (rows.labels_N + shift_N) % NUM_CLASSES, rows.labels_N)
    )


def draw_groups(
    is_wrong_N: npt.NDArray[np.bool_], shares: Floats, generator: np.random.Generator, num_rows: int | None = None
) -> list[Ints]:
    """For each share a group with this share of mislabelled rows.

    Args:
        num_rows: of each group; None: as many as all mislabelled rows are.
    """
    clean, wrong = np.flatnonzero(~is_wrong_N), np.flatnonzero(is_wrong_N)
    num_rows = len(wrong) if num_rows is None else num_rows
    numbers = [int(num_rows * share) for share in shares]
    return [
        np.concatenate(
            [
                generator.choice(clean, num_rows - number, replace=False),
                generator.choice(wrong, number, replace=False),
            ]
        )
        for number in numbers
    ]


def draw_balanced(labels_N: Ints, per_class: int, generator: np.random.Generator) -> Ints:
    """Indices of the same number of images of every class."""
    of_class = (np.flatnonzero(labels_N == label) for label in range(NUM_CLASSES))
    return np.concatenate([generator.choice(indices, per_class, replace=False) for indices in of_class])
