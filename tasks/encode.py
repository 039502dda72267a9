"""Text -> windows of token ids, with a loss mask where only a part of the text counts."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finf_core.spec import ModelSpec
from finf_core.windows import TokenIds, Window, split_into_windows
from tasks.checkpoint import LoadedModel


def encode_rows(model: LoadedModel, spec: ModelSpec, texts: Sequence[str]) -> list[list[Window]]:
    """Each text as its windows; every token counts, and special tokens are the tokenizer's own choice."""
    encoded = model.tokenizer(list(texts), verbose=False)["input_ids"]
    return [_windows(model, spec, np.asarray(ids, dtype=np.int64), None) for ids in encoded]


def encode_query(model: LoadedModel, spec: ModelSpec, context: str, target: str) -> list[Window]:
    """`context` + `target`, tokenised as one text; a token counts when it reaches into the target."""
    encoded = model.tokenizer(context + target, return_offsets_mapping=True, verbose=False)
    ends = np.asarray([end for _, end in encoded["offset_mapping"]])
    counts = None if not context else ends > len(context)
    return _windows(model, spec, np.asarray(encoded["input_ids"], dtype=np.int64), counts)


def _windows(model: LoadedModel, spec: ModelSpec, ids: TokenIds, counts: npt.NDArray[np.bool_] | None) -> list[Window]:
    return split_into_windows(ids, model.context_tokens, spec.overlap_tokens, counts)
