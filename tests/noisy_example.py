"""Real digits, some with a wrong label; clean ones beside them; a network that was trained on the wrong labels."""

from pathlib import Path
from typing import Any

import numpy as np
from image_example import CLASSES, as_png, digit_config, digits, save_network, train_network, write_images

NUM_ROWS, NUM_CLEAN, NUM_WRONG = 400, 100, 60
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def wrong_rows() -> list[int]:
    """The rows of the corpus, both shards counted through, whose label is wrong."""
    return sorted(np.random.default_rng(0).permutation(NUM_ROWS)[:NUM_WRONG].tolist())


def write_noisy_example(folder: Path) -> dict[str, Any]:
    """Corpus (two shards), clean validation rows, weights; returns the config. Row i of the corpus is `train-i`."""
    images, labels = digits()
    given = list(labels[:NUM_ROWS])
    for row in wrong_rows():
        given[row] = (given[row] + 1 + row % (CLASSES - 1)) % CLASSES
    half, names = NUM_ROWS // 2, [f"train-{row}" for row in range(NUM_ROWS)]
    for shard, part in enumerate((slice(0, half), slice(half, NUM_ROWS))):
        write_images(folder / "corpus" / f"{shard}.parquet", as_png(images[part]), given[part], names[part])
    clean = slice(NUM_ROWS, NUM_ROWS + NUM_CLEAN)
    clean_names = [f"clean-{i}" for i in range(NUM_CLEAN)]
    write_images(folder / "clean.parquet", as_png(images[clean]), labels[clean], clean_names)
    save_network(train_network(images[:NUM_ROWS], given), folder / "model")
    config = digit_config(folder)
    return config | {
        "kind": "mislabel",
        "corpus": config["corpus"] | {"label_names": NAMES},
        "queries": {"path": str(folder / "clean.parquet"), "group_column": "label"},
        "rank": {"top_k": 12},
    }
