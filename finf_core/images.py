"""Images from Parquet: encoded (PNG, JPEG, WebP, BMP) or as arrays of 0 to 255; to features, and to small pictures.

Name suffixes: H × W pixels, C channels. Images are uint8, (H, W) in grey or (H, W, 3).
"""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finf_core.errors import InputError
from finf_core.extras import import_extra
from finf_core.spec import ImagesSpec

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_PIXELS = 50_000_000  # of one image, which takes three bytes for each
PICTURE_SIDE = 96  # of what a report shows

Pixels = npt.NDArray[np.uint8]


def pillow() -> Any:
    """`PIL.Image`, imported when the first image is met: text is scanned without it.

    Raises:
        InputError: Pillow is not installed.
    """
    return import_extra("PIL.Image", "vision", "images need Pillow")


def decode_image(value: Any, mode: str) -> Pixels:
    """An image as Parquet holds it.

    Args:
        value: bytes of an image file; a mapping with such `bytes` (the image feature of `datasets`); or integers from
            0 to 255, (H, W), (H, W, C) or (C, H, W), as nested lists or an array.
        mode: "RGB" or "L" (grey).

    Raises:
        InputError: it is no image, or larger than `MAX_PIXELS`; says what is wrong, in a few words.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes")
        if value is None:
            raise InputError("the image is a path without bytes; store the bytes in the shard")
    image = _from_file(value) if isinstance(value, bytes) else _from_array(value)
    try:
        return np.asarray(image.convert(mode))
    except _broken() as error:
        raise InputError(f"the image is broken ({_first_line(error)})") from error


def image_features(pixels: Pixels, spec: ImagesSpec) -> Tensor:
    """(C, H, W), float32: resized, from 0 to 1, less the mean, over the standard deviation."""
    if spec.size is not None and pixels.shape[:2] != (spec.size, spec.size):
        resized = pillow().fromarray(pixels).resize((spec.size, spec.size), pillow().Resampling.BILINEAR)
        pixels = np.asarray(resized)
    features_CHW = torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1).astype(np.float32) / 255)
    if spec.mean:
        features_CHW -= torch.tensor(spec.mean)[:, None, None]
    if spec.std:
        features_CHW /= torch.tensor(spec.std)[:, None, None]
    return features_CHW


def encode_png(pixels: Pixels) -> bytes:
    """Without loss."""
    file = io.BytesIO()
    pillow().fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture(pixels: Pixels) -> bytes:
    """A PNG of at most `PICTURE_SIDE` pixels a side; small images stay as they are."""
    image = pillow().fromarray(pixels)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return encode_png(np.asarray(image))


def _from_file(data: bytes) -> "Image":
    try:
        image: Image = pillow().open(io.BytesIO(data), formats=FORMATS)  # reads the header only
    except _broken() as error:
        raise InputError(f"the image is none of {', '.join(FORMATS)}") from error
    _check_size(image.width * image.height)
    return image


def _from_array(value: Any) -> "Image":
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError("the image has rows of different lengths") from error
    if not np.issubdtype(array.dtype, np.integer) or array.ndim not in (2, 3) or array.size == 0:
        raise InputError(f"the image is {_describe(array)}, not integers (H, W), (H, W, C) or (C, H, W)")
    if array.min() < 0 or array.max() > 255:
        raise InputError("the image holds values outside 0 to 255")
    if array.ndim == 3 and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[2] != 3:
        raise InputError(f"the image has {_describe(array)}: want 1 or 3 channels")
    _check_size(array.shape[0] * array.shape[1])
    image: Image = pillow().fromarray(array.astype(np.uint8))
    return image


def _broken() -> tuple[type[BaseException], ...]:
    """What Pillow raises of broken files."""
    bombs = (pillow().DecompressionBombError, pillow().DecompressionBombWarning)  # a warning may be told to be an error
    return (OSError, ValueError, SyntaxError, EOFError, TypeError, *bombs)


def _check_size(num_pixels: int) -> None:
    if num_pixels > MAX_PIXELS:
        raise InputError(f"the image has {num_pixels:,} pixels, more than {MAX_PIXELS:,}")


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
