"""Images from Parquet: every form gives the same pixels, and what is broken is said in a few words."""

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from damaged_bytes import damaged
from fuzz_counts import NUM_EXAMPLES, tried
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finf_core.errors import InputError
from finf_core.images import MAX_PIXELS, PICTURE_SIDE, decode_image, encode_png, image_features, picture
from finf_core.spec import CorpusSpec, ImagesSpec
from tasks.items import ItemReader, describe_item, pack_item, picture_of
from tasks.row_contents import check_columns, read_contents

COLOUR = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
GREY = COLOUR[:, :, 0]


def encoded(pixels: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        encoded(COLOUR, "PNG"),
        encoded(COLOUR, "BMP"),
        {"bytes": encoded(COLOUR, "PNG"), "path": "x.png"},
        COLOUR.tolist(),
        COLOUR.transpose(2, 0, 1).tolist(),
        COLOUR.astype(np.int64),
    ],
    ids=["png", "bmp", "datasets", "lists", "channels first", "array"],
)
def test_every_form_of_an_image_gives_its_pixels(value: Any) -> None:
    assert np.array_equal(decode_image(value, "RGB"), COLOUR)


def test_grey_images_are_read_as_one_channel_or_three() -> None:
    for value in (encoded(GREY, "PNG"), GREY.tolist(), GREY[:, :, None].tolist()):
        assert np.array_equal(decode_image(value, "L"), GREY)
        assert np.array_equal(decode_image(value, "RGB"), np.stack([GREY] * 3, axis=2))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "none of PNG"),
        (b"GIF89a" + bytes(100), "none of PNG"),
        (encoded(COLOUR, "PNG")[:70], "broken"),
        ({"bytes": None, "path": "x.png"}, "path without bytes"),
        ([[0.5]], "not integers"),
        ([1, 2, 3], "not integers"),
        ([[1, 256]], "outside 0 to 255"),
        ([[1], [1, 2]], "different lengths"),
        (np.zeros((4, 5, 2), np.int64), "1 or 3 channels"),
        ([], "not integers"),
    ],
)
def test_what_is_no_image_is_named(value: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        decode_image(value, "RGB")


def test_an_image_of_very_many_pixels_is_refused_before_it_is_decoded() -> None:
    """A PNG of 60 million equal pixels is 60 kB."""
    side = int(MAX_PIXELS**0.5) + 100
    bomb = encoded(np.zeros((side, side), np.uint8), "PNG")
    assert len(bomb) < 200_000
    with pytest.raises(InputError, match="more than"):
        decode_image(bomb, "L")


FILES = [encoded(COLOUR, form) for form in ("PNG", "JPEG", "WEBP", "BMP")]


@settings(max_examples=NUM_EXAMPLES)
@given(damaged(FILES), st.sampled_from(["RGB", "L"]))
def test_damaged_images_are_pixels_or_one_line(data: bytes, mode: str) -> None:
    tried["images"] += 1
    with suppress(InputError):
        pixels = decode_image(data, mode)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == (3 if mode == "RGB" else 2)


def test_features_are_shades_less_the_mean_over_the_deviation() -> None:
    spec = ImagesSpec(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
    features_CHW = image_features(COLOUR, spec)
    assert features_CHW.shape == (3, 5, 7)
    for channel in range(3):
        wanted = (COLOUR[2, 3, channel] / 255 - spec.mean[channel]) / spec.std[channel]
        assert features_CHW[channel, 2, 3].item() == pytest.approx(wanted, abs=1e-6)


def test_an_image_of_the_wanted_size_is_left_alone_and_others_become_it() -> None:
    square = COLOUR[:5, :5]
    assert torch.equal(image_features(square, ImagesSpec(size=5)), image_features(square, ImagesSpec()))
    assert image_features(COLOUR, ImagesSpec(size=4)).shape == (3, 4, 4)
    assert image_features(GREY, ImagesSpec(size=4)).shape == (1, 4, 4)


def test_a_picture_is_small_and_a_small_image_is_its_own_picture() -> None:
    large = np.zeros((300, 200, 3), np.uint8)
    assert max(Image.open(io.BytesIO(picture(large))).size) == PICTURE_SIDE
    assert np.array_equal(decode_image(picture(COLOUR), "RGB"), COLOUR)


def test_a_packed_item_is_the_item() -> None:
    images = CorpusSpec(path="x", image_column="image", label_column="label")
    item = ItemReader(images).read({"image": encoded(COLOUR, "PNG"), "label": 3})
    again = ItemReader(images).unpack(pack_item(item))
    assert np.array_equal(again["image"], COLOUR)
    assert again["label"] == 3
    assert describe_item(item) == "label: 3"
    assert picture_of(item) == encode_png(COLOUR)
    columns = CorpusSpec(path="x", columns=("features", "name"))
    own = {"features": [1.0, 2.5], "name": "a"}
    assert ItemReader(columns).unpack(pack_item(own)) == own


def test_a_bad_image_or_label_is_a_flaw_of_its_row_alone() -> None:
    png = encoded(GREY, "PNG")
    images = [png, None, b"x", png, png]
    table = pa.table({"image": images, "label": pa.array([1, 2, 3, None, -1])})
    corpus = CorpusSpec(path="x", image_column="image", image_mode="L", label_column="label")
    contents = list(read_contents(table, corpus, None))
    assert contents[0].flaw is None
    assert contents[0].item is not None
    flaws = [each.flaw or "" for each in contents[1:]]
    assert [flaw.split(" (")[0] for flaw in flaws] == [
        "column 'image' is null",
        "the image is none of PNG, JPEG, WEBP, BMP",
        "column 'label' is null",
        "label -1 is no class",
    ]


def test_a_column_of_another_kind_is_refused_by_name() -> None:
    corpus = CorpusSpec(path="x", image_column="image", label_column="label")
    with pytest.raises(InputError, match=r"s\.parquet: column 'image' holds string, not images"):
        check_columns(pa.schema([("image", pa.string()), ("label", pa.int64())]), corpus, "s.parquet")
    with pytest.raises(InputError, match="column 'label' holds string, not classes"):
        check_columns(pa.schema([("image", pa.binary()), ("label", pa.string())]), corpus, "s.parquet")
    with pytest.raises(InputError, match=r"no column 'label' \(corpus\.label_column\)"):
        check_columns(pa.schema([("image", pa.binary())]), corpus, "s.parquet")
