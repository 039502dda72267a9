"""Text to windows: which tokens of a query count, and what is kept in memory."""

from pathlib import Path

import pytest

from finf_core.errors import InputError
from finf_core.losses import IGNORE_INDEX
from finf_core.spec import ModelSpec
from finf_core.updates import MirroredUpdate
from tasks.checkpoint import load_language_model
from tasks.encode import encode_query, encode_rows
from tasks.loaded_model import TextModel
from tasks.queries import Query
from tasks.update_store import UpdateReader, publish_update, read_update


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> TextModel:
    return load_language_model(ModelSpec(path=str(tiny_checkpoint)))


SPEC = ModelSpec(path="unused")


@pytest.mark.parametrize(
    ("context", "target", "counted"),
    [
        ("", "red dog", "red dog"),
        ("red dog", " one cat", " one cat"),
        ("red dog:\n", "one\n", "one\n"),
    ],
)
def test_the_tokens_of_the_target_count_and_no_others(
    model: TextModel, context: str, target: str, counted: str
) -> None:
    [window] = encode_query(model, SPEC, Query("q", context, target))
    labels = window.labels[window.labels != IGNORE_INDEX]
    assert model.tokenizer.decode(labels) == counted
    [whole] = encode_rows(model, SPEC, [context + target])[0]
    assert window.input_ids.tolist() == whole.input_ids.tolist()  # the same tokens as in the corpus


def test_a_token_that_reaches_into_the_target_counts_whole(model: TextModel) -> None:
    text = "alpha beta river"
    *_, (start, end) = model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert end - start >= 2
    [window] = encode_query(model, SPEC, Query("q", text[: end - 1], text[end - 1 :]))
    assert model.tokenizer.decode(window.labels[window.labels != IGNORE_INDEX]) == text[start:end]


def test_the_reader_keeps_what_fits_and_reads_the_rest_each_time(model: TextModel, tmp_path: Path) -> None:
    weight = model.adapter.module.get_parameter("model.norm.weight")
    update = MirroredUpdate({"model.norm.weight": weight.data}, "ascent", "forward", 2.0, 3, 0.1, 0.5)
    folder = str(tmp_path)
    for name in ("one", "two"):
        publish_update(folder, name, update)
    found = read_update(folder, "one")
    assert found.deltas["model.norm.weight"].equal(weight.data)
    assert (found.direction, found.base_nats, found.num_targets, found.moved_nats, found.step_size) == (
        "ascent",
        2.0,
        3,
        0.1,
        0.5,
    )
    reader = UpdateReader(folder, limit_bytes=weight.nbytes)
    assert reader.read("one").num_targets == reader.read("two").num_targets == 3
    for file in tmp_path.iterdir():
        file.unlink()
    assert reader.read("one").num_targets == 3  # kept
    with pytest.raises(InputError):
        reader.read("two")
