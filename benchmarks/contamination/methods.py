"""Every method's answers for a prepared folder, cached in folder/answers/."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.contamination.doubles import near_doubles
from benchmarks.contamination.finf_scan import Line, rankings_by, read_best_rows, read_verdicts, scan_inputs
from benchmarks.contamination.ingredients import by_product, statistics_of, weighed_together
from benchmarks.contamination.inputs import CLEAN, CONTROL, read_items, read_rows, read_truths
from benchmarks.contamination.judge import Method, area, judged, p_values, queries_of, union
from benchmarks.contamination.lexical import METHODS, PARTS, PARTS_OF
from benchmarks.contamination.prepare import say
from benchmarks.contamination.rankings import Found, cached_rankings, rank_matrix
from benchmarks.contamination.rewordings import SEEDS, mean_rankings, write_renamed
from benchmarks.contamination.sampled import (
    cosine_scores,
    embedding_scores,
    released_scores,
    sample_queries,
    sample_rows,
)
from benchmarks.contamination.settings import CODE, MATHS, STRATUM

T = TypeVar("T")

COPIED_FROM = 0.5  # finf_core.spec.VerdictSpec
SAMPLED = {"released recipe": released_scores, "gradient cosine": cosine_scores, "minilm": embedding_scores}


class Answers:
    """The folder's corpus, truth, and what each method says of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, read_rows(folder)
        items = {stratum: read_items(folder, stratum) for stratum in (CODE, MATHS)}
        self.items = {stratum: found for stratum, found in items.items() if found}
        self.truths = read_truths(folder)
        self.doubles = self._near_doubles()

    def lexical(self, name: str) -> Method:
        """Of the part of the query that serves the method better over all leaks: told by the truth, in its favour."""
        return max((self.lexical_part(name, part) for part in PARTS_OF.get(name, PARTS)), key=self._mean_area)

    def lexical_part(self, name: str, part: str) -> Method:
        return judged(self._kept(self._lexical_rankings(name, part)), self.truths)

    def finf(self) -> dict[str, Method]:
        """As shipped (q-value or a copy's mirror ratio); by q-value alone; by another order of the rows; with words."""
        rows, verdicts = self._scans(self.items)
        copied = {
            query
            for query, line in verdicts.items()
            if self.truths[query].kind != CONTROL and (line["max_mirror_ratio"] or 0.0) >= COPIED_FROM
        }
        plain = judged(rankings_by(rows, "control_z"), self.truths)
        structure = self._lexical_rankings("structure", "whole")
        return {
            "finf": Method(plain.statistics, plain.p_values, plain.rankings, copied - self.doubles),
            "finf, q-values alone": plain,
            "finf, control_z × mirror_ratio": judged(by_product(rows), self.truths),
            "finf × structure": judged(by_product(rows, structure), self.truths),
        }

    def ingredients(self, stratum: str) -> dict[str, Method]:
        """Other statistics of the same scan."""
        rows, verdicts = self._scans([stratum])
        found = statistics_of(rows, verdicts)
        products = {"control_z × mirror_ratio": by_product(rows)}
        for name in ("ngram_words", "structure"):
            products[f"… × {name}"] = by_product(rows, self._lexical_rankings(name, "whole"))
        methods = {name: Method(each, p_values(each, self.truths)) for name, each in found.items()}
        methods |= {name: judged(each, self.truths) for name, each in products.items()}
        texts = {name: methods[name].statistics for name in products}
        return methods | {
            "weighed together, without text": weighed_together(found, self.truths),
            "weighed together, with text": weighed_together(found | texts, self.truths),
        }

    def reworded(self) -> dict[str, Method]:
        """Code asked for under other names (maths as it is), alone and together with the query as it is."""
        plain, _ = self._scans(self.items)
        variants = [plain | self._scans([write_renamed(self.folder, CODE, seed)])[0] for seed in SEEDS]
        one, two = by_product(variants[0]), mean_rankings([by_product(variant) for variant in variants])
        as_it_is, structure = judged(by_product(plain), self.truths), self._lexical_rankings("structure", "whole")
        return {
            "finf, other names": judged(one, self.truths),
            "finf, two sets of other names": judged(two, self.truths),
            "finf, other names × structure": judged(by_product(variants[0], structure), self.truths),
            "finf, as it is or other names": either(judged(two, self.truths), as_it_is),
        }

    def sampled(self, name: str) -> Method:
        """A method that costs a pass for each query, on a sample of queries and rows."""
        rankings: dict[str, list[Found]] = {}
        for stratum in self.items:
            make = partial(self._rank_sample, name, stratum)
            rankings |= cached_rankings(self._answers(name, stratum), make)
        return judged(self._kept(rankings), self.truths)

    def _rank_sample(self, name: str, stratum: str) -> dict[str, list[Found]]:
        items = sample_queries(self.items[stratum], self.truths)
        rows = sample_rows(self.rows, items, self.truths, 0)
        say(f"{self.folder.name}: {name}, {len(items)} queries on {len(rows)} rows")
        scores_RQ = SAMPLED[name](self.folder, rows, items)
        ids, asked = [document_id for document_id, _ in rows], [item["item_id"] for item in items]
        return rank_matrix(scores_RQ, ids, asked, self.truths)

    def on_sample(self, method: Method) -> Method:
        """What a method says, looking at the sample's queries and rows alone."""
        rankings: dict[str, list[Found]] = {}
        for stratum in self.items:
            items = sample_queries(self.items[stratum], self.truths)
            ids = {document_id for document_id, _ in sample_rows(self.rows, items, self.truths, 0)}
            for item in items:
                rows = (method.rankings or {}).get(item["item_id"], ())
                kept = [row for row in rows if row.document_id in ids]
                # nothing listed is in the sample: its best there is at most the last one listed
                rankings[item["item_id"]] = kept or [Found("", row.score) for row in rows[-1:]]
        return judged(self._kept(rankings), self.truths)

    def _lexical_rankings(self, name: str, part: str) -> dict[str, list[Found]]:
        return cached_rankings(self._answers(name, part), lambda: self._rank_lexically(name, part))

    def _rank_lexically(self, name: str, part: str) -> dict[str, list[Found]]:
        say(f"{self.folder.name}: {name} reads the {part}")
        items = [item for stratum in self.items.values() for item in stratum]
        queries = [item["target"] if part == "target" else item["context"] + item["target"] for item in items]
        scores_RQ = METHODS[name]([text for _, text in self.rows], queries)
        ids, asked = [document_id for document_id, _ in self.rows], [item["item_id"] for item in items]
        return rank_matrix(scores_RQ, ids, asked, self.truths)

    def _answers(self, name: str, part: str) -> Path:
        return self.folder / "answers" / f"{name.replace(' ', '-')}-{part}.json"

    def _scans(self, strata: Iterable[str]) -> tuple[dict[str, list[Line]], dict[str, Line]]:
        """Listed rows of each query, best control_z first, and its line of queries.parquet."""
        rows: dict[str, list[Line]] = {}
        verdicts: dict[str, Line] = {}
        for stratum in strata:
            run_uri = scan_inputs(self.folder, stratum)
            rows |= self._kept(read_best_rows(run_uri))
            verdicts |= read_verdicts(run_uri)
        return {q: sorted(lines, key=lambda line: -line["control_z"]) for q, lines in rows.items()}, verdicts

    def _near_doubles(self) -> set[str]:
        rankings = [self._lexical_rankings("ngram_words", "target"), self._lexical_rankings("bm25", "target")]
        items = [item for items in self.items.values() for item in items]
        return near_doubles(items, self.rows, rankings, self.truths)

    def _kept(self, of_queries: Mapping[str, Sequence[T]]) -> dict[str, list[T]]:
        return {query: list(rows) for query, rows in of_queries.items() if query not in self.doubles}

    def _mean_area(self, method: Method) -> float:
        kinds = {truth.kind for truth in self.truths.values()} - {CLEAN, CONTROL}
        cells = [queries_of(method, self.truths, {name}, {kind}) for name in STRATUM for kind in kinds]
        areas = [area(method.statistics, leaked, clean) for leaked, clean in cells if leaked and clean]
        return sum(areas) / len(areas)


def either(first: Method, second: Method) -> Method:
    """Leaked when either says so, at one false discovery rate for both; rows in the first one's order."""
    values = union(first.p_values, second.p_values)
    return Method({query: -value for query, value in values.items()}, values, first.rankings, first.also_called)
