"""A row as windows that fit the model: every target is counted in exactly one of them.

A row of n tokens has n - 1 possible targets (the first token has nothing before it). A row
longer than the context becomes several windows; each further one starts `overlap` tokens
early, so that its first targets see some context, and does not count what was counted before.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finf_core.losses import IGNORE_INDEX

TokenIds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    input_ids: TokenIds  # (T,)
    labels: TokenIds  # (T,): the token that each position predicts, or IGNORE_INDEX

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        return int((self.labels != IGNORE_INDEX).sum())


def split_into_windows(
    token_ids: TokenIds, context_tokens: int, overlap_tokens: int, counts: npt.NDArray[np.bool_] | None = None
) -> list[Window]:
    """Cut a row into windows of at most `context_tokens` inputs.

    Args:
        token_ids: (n,) the whole row.
        counts: (n,) whether a token counts in the loss; None: all of them.

    Returns:
        Windows whose losses add up to the row's; none for a row without targets.
    """
    labels = token_ids[1:].copy()
    if counts is not None:
        labels[~counts[1:]] = IGNORE_INDEX
    stride = max(1, context_tokens - min(overlap_tokens, context_tokens - 1))
    windows, counted = [], 0
    for start in range(0, max(1, len(labels)), stride):
        stop = min(start + context_tokens, len(labels))
        window_labels = labels[start:stop].copy()
        window_labels[: counted - start] = IGNORE_INDEX
        if (window_labels != IGNORE_INDEX).any():
            windows.append(Window(token_ids[start:stop], window_labels))
        counted = stop
        if stop == len(labels):
            break
    return windows
