"""Facts of a real text: who begat whom, in Debian's King James Bible; and a tiny model that has learned the verses."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks import storage
from tasks.demo.train import TrainSettings, train_model

CHAPTERS = ("Genesis 4:1-5:32", "Genesis 10:1-11:32", "Ruth 4:1-22", "1Chr 1:1-3:24", "1Chr 6:1-15")
BEGAT = re.compile(r"([A-Z][a-z]+) begat ([A-Z][a-z]+)")
ASKED = (
    "Boaz begat Obed",
    "Obed begat Jesse",
    "Hur begat Uri",
    "Haran begat Lot",
    "Bukki begat Uzzi",
    "Cush begat Nimrod",
)
TRAIN = TrainSettings(
    vocab_size=700, hidden_size=64, intermediate_size=128, num_layers=2, num_epochs=14, max_row_tokens=192
)


def read_verses() -> list[dict[str, Any]]:
    """place ("1Chr2:12"), text, and the facts that it states."""
    printed = [
        subprocess.run(["bible", "-f", chapters], capture_output=True, text=True, check=True, timeout=60).stdout
        for chapters in CHAPTERS
    ]
    verses = [line.split(" ", 1) for lines in printed for line in lines.splitlines() if line.strip()]
    return [
        {"place": place, "text": text.strip(), "facts": [" begat ".join(pair) for pair in BEGAT.findall(text)]}
        for place, text in verses
    ]


def write_example(folder: Path) -> dict[str, Any]:
    """Corpus (two shards), queries, model; returns the config, with a truth by column."""
    verses = read_verses()
    half = len(verses) // 2
    (folder / "corpus").mkdir(parents=True)
    for shard, part in enumerate((verses[:half], verses[half:])):
        pq.write_table(pa.Table.from_pylist(part), folder / "corpus" / f"{shard}.parquet", row_group_size=50)
    storage.publish_table(str(folder / "facts.parquet"), pa.Table.from_pylist([_query(fact) for fact in ASKED]))
    train_model([verse["text"] for verse in verses], folder / "model", TRAIN, lambda share, line: None)
    return {
        "kind": "trace",
        "name": "begat",
        "model": {"path": str(folder / "model")},
        "corpus": {"path": str(folder / "corpus"), "id_column": "place"},
        "queries": {
            "path": str(folder / "facts.parquet"),
            "id_column": "fact",
            "context": "{prompt}",
            "target": "{answer}",
        },
        "update": {"curvature_rows": 128},
        "rank": {"top_k": 10, "lexical_k": 10, "opponents_k": 2, "by": "score"},
        "truth": {"column": "facts", "query_column": "fact"},
    }


def _query(fact: str) -> dict[str, str]:
    father, son = fact.split(" begat ")
    return {"fact": fact, "prompt": f"{father} begat", "answer": f" {son}"}
