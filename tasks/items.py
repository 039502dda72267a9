"""Items: rows and queries that are not text, as the columns that a model reads of them.

Of an image classifier these are `image` (pixels) and `label`; of a model of one's own, the columns that
`corpus.columns` names, as Python values. A query carries its items packed (Arrow), wherever it goes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from finf_core.columns import take_column
from finf_core.errors import InputError
from finf_core.images import decode_image, encode_png, picture, pillow
from finf_core.spec import CorpusSpec
from finf_core.template import value_at
from tasks.python_values import UNREADABLE, python_values

IMAGE, LABEL = "image", "label"

Item = dict[str, Any]


@dataclass(frozen=True)
class ItemReader:
    """What is read of a row that is not text.

    Raises:
        InputError: the rows have images, and Pillow is not installed.
    """

    corpus: CorpusSpec

    def __post_init__(self) -> None:
        if self.corpus.image_column is not None:
            pillow()  # missing, it would be taken for a flaw of each row

    def read_table(self, table: pa.Table) -> Iterator["Item | str"]:
        """Each row as an item, or as what is wrong with it."""
        names = item_columns(self.corpus)
        for values in zip(*(python_values(take_column(table, name)) for name in names), strict=True):
            try:
                yield self.read(dict(zip(names, values, strict=True)))
            except InputError as error:
                yield str(error)

    def read_row(self, row: Mapping[str, Any]) -> Item:
        """A row of a query file, as an item.

        Raises:
            InputError: a column is missing, or holds what no item can.
        """
        return self.read({name: value_at(row, name) for name in item_columns(self.corpus)})

    def read(self, values: Mapping[str, Any]) -> Item:
        for name, value in values.items():
            if value is UNREADABLE:
                raise InputError(f"column {name!r} holds no value that can be read")
            if value is None:
                raise InputError(f"column {name!r} is null")
        corpus = self.corpus
        if corpus.image_column is None:
            return dict(values)
        item: Item = {IMAGE: decode_image(values[corpus.image_column], corpus.image_mode)}
        if corpus.label_column is not None:
            label = values[corpus.label_column]
            if isinstance(label, bool) or not isinstance(label, int) or label < 0:
                raise InputError(f"label {label!r} is no class (a whole number from 0)")
            item[LABEL] = label
        return item

    def unpack(self, packed: bytes) -> Item:
        """The inverse of `pack_item`."""
        item: Item = pa.ipc.open_stream(packed).read_all().to_pylist()[0]
        if self.corpus.image_column is None:
            return item
        return item | {IMAGE: decode_image(item[IMAGE], self.corpus.image_mode)}


def item_columns(corpus: CorpusSpec) -> list[str]:
    """The columns that are read, each once."""
    named = [corpus.image_column, corpus.label_column, *corpus.columns]
    return list(dict.fromkeys(name for name in named if name is not None))


def pack_item(item: Item) -> bytes:
    """As bytes that say the same on every machine.

    Raises:
        InputError: it holds what Arrow has no type for.
    """
    plain = {key: encode_png(value) if isinstance(value, np.ndarray) else value for key, value in item.items()}
    sink = pa.BufferOutputStream()
    try:
        table = pa.Table.from_pylist([plain])
    except pa.ArrowException as error:
        raise InputError(f"its columns cannot be stored: {str(error).splitlines()[0]}") from error
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def describe_item(item: Item) -> str:
    """An item in words, for lists and reports: what is no picture of it."""
    return ", ".join(f"{key}: {_short(value)}" for key, value in item.items() if not isinstance(value, np.ndarray))


def picture_of(item: Item) -> bytes | None:
    """A small PNG of its image; None where it has none."""
    images = [value for value in item.values() if isinstance(value, np.ndarray)]
    return picture(images[0]) if images else None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
