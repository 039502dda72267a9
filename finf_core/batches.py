"""Which windows run together: a function of their lengths and the token budget, nothing else.

The base and the mirrored pass use the same plan, so the rounding of a padded batch cancels in their difference.
"""

from collections.abc import Sequence

PADDING_STEP = 1 / 16  # of the budget: as much padding as one more window may add; a new batch costs about as much


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group indices by length so that a padded batch stays within `batch_tokens` and holds little padding.

    A window longer than the budget runs alone. Ties keep their order, so the plan is deterministic.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # ascending: the newest member is the longest and sets the padded length
        if batches:
            size, padded_length = len(batches[-1]), lengths[batches[-1][-1]]
            fits = lengths[index] * (size + 1) <= batch_tokens
            if fits and size * (lengths[index] - padded_length) <= PADDING_STEP * batch_tokens:
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches
