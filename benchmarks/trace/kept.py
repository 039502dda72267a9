"""Arrays that are made once and kept in a file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from finf_core.scores import Floats


def kept(path: Path, make: Callable[[], dict[str, Floats]]) -> dict[str, Floats]:
    """What the file holds; where there is none, what `make` gives, which is then written there."""
    if not path.exists():
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **make())  # type: ignore[arg-type]
        partial.rename(path)
    with np.load(path) as found:
        return {name: found[name] for name in found.files}
