"""Which windows run together: a function of their lengths and the token budget, nothing else.

The base and the mirrored pass use the same plan, so the rounding of a padded batch cancels in their difference.
"""

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group indices by length so that a padded batch stays within `batch_tokens`.

    A window longer than the budget runs alone. Ties keep their order, so the plan is deterministic.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # ascending: the newest member is the longest and sets the padded length
        if batches and lengths[index] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
