"""Corpus, model and questions; what is there already is not made again."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.trace.facts import Fact, facts_of, read_sentences
from benchmarks.trace.knowledge import known_facts
from finf_core.fingerprint import fingerprint, short
from finf_core.spec import ModelSpec
from tasks.checkpoint import load_language_model
from tasks.demo.train import TrainSettings, train_model

TRAIN = TrainSettings(vocab_size=4096, num_epochs=20, max_row_tokens=128)
NUM_PROBED, NUM_CHOOSING, NUM_REPORTED = 1500, 40, 120  # facts asked about; of those known, two splits
GROUP_ROWS = 128


@dataclass(frozen=True)
class Prepared:
    folder: Path
    model: ModelSpec
    texts: list[str]  # the corpus, row by row
    row_of: dict[str, int]  # fact id -> its one true row
    choosing: list[Fact]  # recipes are chosen on these
    reported: list[Fact]  # and measured on these
    knowledge: dict[str, Any]
    training: dict[str, Any]


def prepare(root: Path, data: Path, share: float) -> Prepared:
    """Train on a share of the sentences, and ask about what was learned."""
    sentences = read_sentences(data)
    sentences = random.Random(0).sample(sentences, round(share * len(sentences)))
    texts = [each["text"] for each in sentences]
    folder = root / short(fingerprint([texts, TRAIN]))
    folder.mkdir(parents=True, exist_ok=True)
    training = _trained(folder, texts)
    spec = ModelSpec(path=str(folder / "model"))
    write_corpus(folder / "corpus.parquet", sentences)
    facts = facts_of(sentences)
    probed = random.Random(1).sample(facts, min(NUM_PROBED, len(facts)))
    known, knowledge = known_facts(load_language_model(spec), spec, probed, seed=2)
    asked = random.Random(3).sample(known, min(NUM_CHOOSING + NUM_REPORTED, len(known)))
    num_choosing = min(NUM_CHOOSING, len(asked) // 4)
    row_of = {each["id"]: row for row, each in enumerate(sentences)}
    return Prepared(folder, spec, texts, row_of, asked[:num_choosing], asked[num_choosing:], knowledge, training)


def write_corpus(path: Path, sentences: Sequence[dict[str, str]]) -> None:
    table = pa.table({"id": [each["id"] for each in sentences], "text": [each["text"] for each in sentences]})
    pq.write_table(table, path, row_group_size=GROUP_ROWS)


def _trained(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    record = folder / "training.json"
    if not record.exists():
        result = train_model(texts, folder / "model", TRAIN, lambda share, line: print(line, flush=True))
        record.write_text(json.dumps(asdict(result) | {"folder": folder.name, "num_epochs": TRAIN.num_epochs}))
    found: dict[str, Any] = json.loads(record.read_text())
    return found
