"""Real files, damaged: bits flipped, pieces cut out, repeated or taken from another file."""

from collections.abc import Sequence

from hypothesis import strategies as st

MOST_CHANGES = 4
NUMBERS = (0, 1, 2, 7, 127, 128, 255)


@st.composite
def damaged(draw: st.DrawFn, files: Sequence[bytes]) -> bytes:
    """One of the files after up to `MOST_CHANGES` changes; the other files lend pieces."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, MOST_CHANGES))):
        size = len(data)
        place = draw(st.integers(0, max(0, size - 1)))
        if draw(st.booleans()):  # near the end, where a Parquet file keeps what it says of itself
            place = max(0, size - 1 - place % 600)
        kind = draw(st.sampled_from(("bit", "byte", "cut", "drop", "repeat", "lend", "write")))
        length = draw(st.integers(1, 64))
        if kind == "bit" and size:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and size:
            data[place] = draw(st.sampled_from(NUMBERS))
        elif kind == "cut":
            del data[place:]
        elif kind == "drop":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + length] * draw(st.integers(1, 3))
        elif kind == "lend":
            other = draw(st.sampled_from(files))
            start = draw(st.integers(0, len(other)))
            data[place : place + length] = other[start : start + length]
        elif kind == "write":
            data[place : place + length] = draw(st.binary(max_size=length))
    return bytes(data)
