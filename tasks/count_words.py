"""How common words are, counted once on a sample of the corpus: what BM25 weighs words by.

words.parquet in the cache: word, num_rows; how many rows were read, and how long they are, in its metadata.
"""

import json
from collections.abc import Iterator

import pyarrow as pa

from finf_core.lexical import LexicalIndex, QueryText, WordCounts, count_words
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.encode import checked_ids
from tasks.fit_curvature import sample_corpus_rows
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel, as_text
from tasks.queries import Query
from tasks.row_text import row_text

SAMPLE_ROWS = 2048
SIZES_KEY = b"finf.words"


def count_corpus_words(job: ScanJob, pool: ActorPool) -> str:
    """Have one actor count and publish; returns the URI."""
    list(pool.map("count_words", [job]))
    return job.words_uri


def count_on_sample(model: LoadedModel, job: ScanJob) -> None:
    """On the actor."""
    counts = count_words(_sample_texts(model, job))
    words = {"word": list(counts.rows_of_word), "num_rows": list(counts.rows_of_word.values())}
    table = pa.table(words, schema=pa.schema([("word", pa.string()), ("num_rows", pa.int64())]))
    sizes = json.dumps({"num_rows": counts.num_rows, "mean_words": counts.mean_words})
    storage.publish_table(job.words_uri, table.replace_schema_metadata({SIZES_KEY: sizes.encode()}))


def _sample_texts(model: LoadedModel, job: ScanJob) -> Iterator[str]:
    for shard, rows in sample_corpus_rows(model, job, SAMPLE_ROWS):
        for row in rows:
            if row.token_ids is not None:
                checked_ids(as_text(model), row, shard)  # an id outside the vocabulary stands for no text
            yield row_text(row, model.tokenizer)


def lexical_index(job: ScanJob, queries: list[Query]) -> LexicalIndex | None:
    """Of these queries; None where the config asks for no words to be compared."""
    if not job.spec.rank.lexical_k:
        return None
    texts = [QueryText(query.context, query.target) for query in queries]
    return LexicalIndex(texts, job.spec.rank.ngram_words, read_word_counts(job))


def read_word_counts(job: ScanJob) -> WordCounts:
    table = storage.read_table(job.words_uri)
    rows_of_word = dict(zip(table["word"].to_pylist(), table["num_rows"].to_pylist(), strict=True))
    return WordCounts(**json.loads(table.schema.metadata[SIZES_KEY]), rows_of_word=rows_of_word)
