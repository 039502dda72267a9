"""`finf trace`: the rows behind facts, by the model and by words, measured by rows that are known to be true."""

import json
import re
import tomllib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import trace_example
from playwright.sync_api import Browser
from test_scan import run_finf

from finf_core.alignment import same_words
from finf_core.errors import InputError
from finf_core.fusion import fuse_rankings
from flows.config_template import TEMPLATES
from tasks import storage
from tasks.config import parse_config
from tasks.job import ScanJob
from tasks.options import RunOptions
from tasks.queries import facts_of, load_queries
from tasks.resolve_inputs import resolve_inputs
from tasks.trace import Traced, measure
from tasks.true_rows import Truth, find_true_rows, read_truth


def as_toml(table: dict[str, Any]) -> str:
    plain = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    sections = [f"[{key}]\n{as_toml(value)}" for key, value in table.items() if isinstance(value, dict)]
    return "\n".join([*plain, *sections])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trace_example.write_example(tmp_path_factory.mktemp("trace"))


def resolved(config: dict[str, Any], store: Path) -> ScanJob:
    return resolve_inputs(parse_config(config, "trace.toml"), RunOptions(store=str(store)))


def true_verses(fact: str) -> set[str]:
    """Found in the text alone."""
    father, son = fact.split(" begat ")
    verses = trace_example.read_verses()
    return {verse["place"] for verse in verses if re.search(rf"\b{father} begat {son}\b", verse["text"])}


def test_a_trace_lists_measures_and_shows_the_rows_behind_facts(
    config: dict[str, Any], tmp_path: Path, finf_environment: dict[str, str], browser: Browser
) -> None:
    (tmp_path / "trace.toml").write_text(as_toml(config))
    arguments = ("trace", str(tmp_path / "trace.toml"), "--store", str(tmp_path / "store"), "--actors", "1", "--json")
    done = run_finf(*arguments, environment=finf_environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    top = storage.read_table(storage.join(result["run"], "top.parquet")).to_pylist()
    for order, by in (("model", "score"), ("words", "bm25")):
        ranked = {
            fact: [row["document_id"] for row in sorted(top, key=lambda row: -row[by]) if row["query_id"] == fact][:10]
            for fact in trace_example.ASKED
        }
        places = [
            min([ranked[fact].index(at) + 1 for at in true_verses(fact) if at in ranked[fact]], default=0)
            for fact in ranked
        ]
        assert result["mrr"][order] == pytest.approx(sum(1 / place for place in places if place) / len(places)), order
        first = [len(true_verses(fact) & {ranked[fact][0]}) for fact in ranked]
        assert result["recall_at_1"][order] == pytest.approx(sum(first) / len(first)), order
    assert result["mrr"]["words"] > 0.9  # the verse has the prompt's words
    assert result["mrr"]["model"] > 0.4  # 292 verses: chance is 0.02
    check_page(browser, storage.join(result["run"], "report.html"))


def check_page(browser: Browser, path: str) -> None:
    """What a reader sees of it."""
    page = browser.new_page()
    page.goto(Path(path).as_uri())
    assert page.locator("h1").inner_text().startswith("The rows behind 6 facts: MRR ")
    assert page.locator("section.group").count() == len(trace_example.ASKED)
    group = page.locator("section.group").first
    assert group.locator(".asked-item .context").inner_text() == "Boaz begat"
    true_card = group.locator(".card", has=page.locator(".badge")).first
    assert "Boaz begat Obed" in true_card.locator("pre").inner_text()
    assert {"Boaz", "Obed"} <= set(true_card.locator("mark").all_inner_texts())
    assert "and" not in [word.lower() for word in true_card.locator("mark").all_inner_texts()]
    page.close()


def test_rows_are_true_by_a_column_of_lists(config: dict[str, Any], tmp_path: Path) -> None:
    job = resolved(config, tmp_path)
    find_true_rows(job)
    truth = read_truth(job)
    assert truth is not None
    shards = {f"{config['corpus']['path']}/{shard}.parquet": shard for shard in (0, 1)}
    rows = {shards[uri]: storage.read_table(uri).to_pylist() for uri in shards}
    found = {fact: {rows[shards[uri]][row]["place"] for uri, row in keys} for fact, keys in truth.rows_of.items()}
    assert found == {fact: true_verses(fact) for fact in trace_example.ASKED}
    assert found["Boaz begat Obed"] == {"1Chr2:12", "Ruth4:21"}


def test_two_shards_of_one_name_are_told_apart() -> None:
    truth = Truth({"q": {("a/0.parquet", 3)}}, of_corpus=True)
    assert truth.holds("q", {"shard": "a/0.parquet", "row": 3, "document_id": "x"})
    assert not truth.holds("q", {"shard": "b/0.parquet", "row": 3, "document_id": "x"})
    assert not truth.holds("other", {"shard": "a/0.parquet", "row": 3, "document_id": "x"})


def test_a_truth_in_a_file_names_rows_by_document(config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    path.write_text(json.dumps({"query_id": "Hur begat Uri", "document_id": "1Chr2:20"}) + "\n")
    job = resolved(config | {"truth": {"path": str(path)}}, tmp_path)
    find_true_rows(job)
    truth = read_truth(job)
    assert truth is not None
    assert truth.holds("Hur begat Uri", {"shard": "any", "row": 0, "document_id": "1Chr2:20"})
    assert not truth.holds("Hur begat Uri", {"shard": "any", "row": 0, "document_id": "1Chr2:21"})
    path.write_text(json.dumps({"query_id": "Hur begat Uri", "document_id": "1Chr2:21"}) + "\n")
    again = resolved(config | {"truth": {"path": str(path)}}, tmp_path)
    assert again.fingerprint != job.fingerprint  # another truth is another report,
    assert again.sets_fingerprint == job.sets_fingerprint  # and the same scores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": {"column": "fact"}}, "no column 'fact' \\(truth.column\\); the columns are place, text, facts"),
        ({"truth": {"column": "facts"}}, "row 0: no column 'facts'; the columns are"),
        (
            {"truth": {"column": "text", "query_column": "fact"}},
            "no row's 'text' \\(truth.column\\) is the 'fact' of any",
        ),
        ({"truth": {"column": "facts", "path": "x.jsonl"}}, "give one of the two"),
        ({"truth": {"query_column": "fact"}}, "truth.query_column goes with truth.column"),
        ({"truth": {"column": "facts", "recall_at": [0]}}, "truth.recall_at: want numbers from 1"),
        ({"kind": "scan"}, "truth.path and truth.column are for kind = 'trace'"),
    ],
)
def test_a_truth_that_cannot_be_is_one_line(
    config: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_true_rows(resolved(config | change, tmp_path))


def test_a_truth_of_queries_that_are_not_asked_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    path.write_text(json.dumps({"query_id": "Adam begat Seth", "document_id": "x"}) + "\n")
    with pytest.raises(InputError, match=r"truth\.jsonl: query_id 'Adam begat Seth' is none of the queries"):
        resolved(config | {"truth": {"path": str(path)}}, tmp_path)


def test_a_value_is_a_fact_or_a_list_of_them() -> None:
    assert [facts_of(value) for value in ("a", 7, ["a", None, "b"], [], None)] == [("a",), ("7",), ("a", "b"), (), ()]


def test_queries_keep_their_facts_in_the_store(config: dict[str, Any], tmp_path: Path) -> None:
    spec = parse_config(config, "trace.toml")
    queries = load_queries(spec.queries, fact_column="fact")
    assert [query.facts for query in queries] == [(fact,) for fact in trace_example.ASKED]
    assert all(query.facts == () for query in load_queries(spec.queries))


def fused_slowly(rankings: Sequence[Sequence[str]]) -> list[str]:
    """With fractions, row by row."""
    rows = list(dict.fromkeys(row for ranking in rankings for row in ranking))
    share = {row: sum(Fraction(1, 61 + of.index(row)) for of in rankings if row in of) for row in rows}
    result: list[str] = []
    while len(result) < len(rows):
        left = [row for row in rows if row not in result]
        best = max(share[row] for row in left)
        result.append(next(row for row in left if share[row] == best))
    return result


@pytest.mark.parametrize(
    "rankings",
    [
        (["a", "b", "c"], ["c", "a"]),
        (["a", "b"], ["b", "a"]),
        ([], ["x", "y"]),
        (list("abcdefgh"), list("hgfedcba"), list("dz")),
        ([], []),
    ],
)
def test_rankings_are_fused_by_reciprocal_ranks(rankings: tuple[list[str], ...]) -> None:
    assert fuse_rankings(rankings) == fused_slowly(rankings)


def test_a_row_on_both_lists_comes_before_the_first_of_either() -> None:
    assert fuse_rankings([["a", "both"], ["b", "both"]])[0] == "both"


def test_the_same_words_are_found_one_by_one_in_any_order() -> None:
    query, row = "The father of Obed was Boaz", "And Boaz begat OBED; boaz the father"
    spans = same_words(query, row, ignored={"the"})
    found = [(query[a:b], row[c:d]) for a, b, c, d in spans]
    assert found == [("Boaz", "Boaz"), ("Obed", "OBED"), ("Boaz", "boaz"), ("father", "father")]


def traced(query_id: str, by_model: str, by_words: str) -> Traced:
    rows = {("s", ord(name)): {"shard": "s", "row": ord(name), "document_id": name} for name in by_model + by_words}
    orders = {"model": [("s", ord(name)) for name in by_model], "words": [("s", ord(name)) for name in by_words]}
    both = fuse_rankings(list(orders.values()))
    return Traced({"title": query_id, "facts": {}}, rows, orders | {"both": both}, [])


def test_measures_are_means_over_the_queries_whose_true_rows_are_known() -> None:
    found = [traced("one", "axb", "ba"), traced("two", "xy", "c"), traced("unknown", "x", "y")]
    numbers = measure(found, Truth({"one": {"b"}, "two": {"c", "d"}}, of_corpus=False), (1, 2))
    assert numbers["mrr"] == pytest.approx({"model": 1 / 6, "words": 1.0, "both": 1 / 2})
    assert numbers["recall_at_1"] == pytest.approx({"model": 0.0, "words": 1.0, "both": 0.0})
    assert numbers["recall_at_2"] == pytest.approx({"model": 0.0, "words": 3 / 4, "both": 3 / 4})
    assert numbers.keys() == {"mrr", "recall_at_1", "recall_at_2"}


PAGE = Path(__file__).parents[1] / "docs" / "TRACE.md"


@pytest.mark.parametrize("text", [*re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL), TEMPLATES["trace"]])
def test_the_configs_that_are_shown_are_valid(text: str) -> None:
    spec = parse_config(tomllib.loads(text), "shown")
    assert (spec.kind, spec.rank.by) == ("trace", "score")
    assert spec.rank.top_k == spec.rank.lexical_k
