"""A row as people read it, and as its words are compared."""

from typing import TYPE_CHECKING

from tasks.corpus import CorpusRow
from tasks.items import describe_item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def row_text(row: CorpusRow, tokenizer: "PreTrainedTokenizerBase | None", max_tokens: int | None = None) -> str:
    """Its text, or what its token ids (the first of them) stand for; empty where nobody can tell."""
    if row.item is not None:
        return describe_item(row.item)
    if row.token_ids is None:
        return row.text or ""
    if tokenizer is None:
        return ""
    return str(tokenizer.decode(row.token_ids[:max_tokens], skip_special_tokens=True))
