"""What the table of `benchmarks.contamination` rests on: what is planted, what is true, and how it is counted."""

import ast
import math
import random

import numpy as np
import pytest

from benchmarks.contamination.doubles import near_doubles, shared_share
from benchmarks.contamination.ingredients import by_product, gap, gap_below_doubles, weighed_together
from benchmarks.contamination.inputs import CLEAN, CONTROL, Truth, deal_items, plant
from benchmarks.contamination.items import Item
from benchmarks.contamination.judge import Method, called_leaked, f1, grade, judged, oracle_f1, p_values, union
from benchmarks.contamination.leaks import leak_text, reformat_code
from benchmarks.contamination.lexical import program_tokens, shared_ngrams, words
from benchmarks.contamination.methods import either
from benchmarks.contamination.rankings import Found, rank_matrix
from benchmarks.contamination.rewordings import FUNCTION_WORDS, VALUE_WORDS, mean_rankings, renamed_item
from benchmarks.contamination.settings import Setting, scaled
from finf_core.errors import InputError
from tasks.demo import rename
from tasks.demo.plants import humaneval_problems
from tasks.demo.rename import rename_identifiers

PROBLEMS = humaneval_problems()
ITEMS = [
    Item(f"humaneval/{place}", "humaneval", each.prompt, each.canonical_solution) for place, each in enumerate(PROBLEMS)
]


def truth(kind: str, benchmark: str = "functions", *document_ids: str) -> Truth:
    return Truth(benchmark, kind, document_ids)


# ---- what is planted


def test_reformatted_problems_still_pass_their_tests() -> None:
    for problem in PROBLEMS:
        scope: dict[str, object] = {}
        exec(reformat_code(problem.program), scope)
        exec(problem.test, scope)
        scope["check"](scope[problem.entry_point])  # type: ignore[operator]


def test_reformatting_changes_the_layout_and_no_name() -> None:
    source = 'def f(a,\n      b):\n    """ Adds\n    two. """\n    # sum\n\n    return "x" + (a+b)\n'
    assert reformat_code(source) == 'def f(a, b):\n  """Adds two."""\n  return \'x\' + (a + b)\n'


def test_each_item_is_dealt_once_and_planted_as_often_as_asked() -> None:
    setting = Setting(
        leaks={"humaneval": {"verbatim": 3, "renamed": 4}}, clean={"humaneval": 5}, controls={"humaneval": 6}
    )
    dealt = deal_items(ITEMS, "humaneval", setting)
    assert len({item.item_id for item, _ in dealt}) == len(dealt) == 18
    rows, truths = plant(dealt, 4, 0)
    kinds = [each.kind for each in truths.values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"verbatim": 3, "renamed": 4, CLEAN: 5, CONTROL: 6}
    assert len({document_id for document_id, _ in rows}) == len(rows) == 4 * 7
    texts = dict(rows)
    for item, kind in dealt:
        ids = truths[item.item_id].document_ids
        assert len(ids) == (0 if kind in (CLEAN, CONTROL) else 4)
        assert all((texts[document_id] == item.text) == (kind == "verbatim") for document_id in ids)


def test_no_clean_item_or_control_is_a_sibling_of_a_leak() -> None:
    items = [
        Item(f"functions/file{place % 10}.py:f{place}", "functions", "def f():\n", "    pass\n") for place in range(40)
    ]
    setting = Setting(leaks={"functions": {"verbatim": 4}}, clean={"functions": 6}, controls={"functions": 6})
    dealt = deal_items(items, "functions", setting)
    leaking = {item.source for item, kind in dealt if kind == "verbatim"}
    assert leaking.isdisjoint(item.source for item, kind in dealt if kind in (CLEAN, CONTROL))


def test_an_item_leaks_only_in_forms_that_it_has() -> None:
    plain, reworded = ITEMS[0], Item("humaneval/r", "humaneval", "p", "s", {"c": "int main() {}"})
    setting = Setting(leaks={"humaneval": {"c": 1}}, clean={}, controls={})
    assert deal_items([plain, reworded], "humaneval", setting) == [(reworded, "c")]
    assert leak_text(reworded, "c", 0) == "int main() {}"
    with pytest.raises(InputError, match="0 are left"):
        deal_items([plain], "humaneval", setting)
    with pytest.raises(InputError, match="no 'renamed' form"):
        leak_text(Item("gsm8k/1", "gsm8k", "q", "a"), "renamed", 0)


def test_a_scaled_setting_keeps_every_kind() -> None:
    small = scaled(Setting(), 0.01)
    assert small.num_rows == 200
    assert {name: set(counts) for name, counts in small.leaks.items()} == {
        name: set(counts) for name, counts in Setting().leaks.items()
    }
    assert min(num for counts in small.leaks.values() for num in counts.values()) >= 2


# ---- who says what


def test_shared_ngrams_are_those_counted_by_hand() -> None:
    rows = ["a b c d e f g h i", "x", "b c d e f g h i j"]
    found = shared_ngrams(str.split, rows, ["a b c d e f g h i j", "too short"])
    assert found.tolist() == [[pytest.approx(2 / 3), 0.0], [0.0, 0.0], [pytest.approx(2 / 3), 0.0]]


def test_rare_ngrams_weigh_more() -> None:
    common, rare = "a b c d e f g h", "s t u v w x y z"
    rows = [common, common, f"{rare} {rare[0]}", "q"]
    found = shared_ngrams(str.split, rows, [f"{common} | {rare}"], by_rarity=True)
    assert 0 < found[0, 0] == found[1, 0] < found[2, 0]


def test_program_tokens_are_the_same_under_other_names() -> None:
    for problem in PROBLEMS[:40]:
        if '"' in problem.canonical_solution or "'" in problem.canonical_solution:
            continue  # words inside strings are names to this reader
        body = ast.unparse(ast.parse(problem.program))
        assert program_tokens(rename_identifiers(body)) == program_tokens(body)


def test_words_know_no_punctuation() -> None:
    assert words("Has_close(Elements, 0.5)") == ["has", "close", "elements", "0", "5"]


def test_a_tie_never_helps_and_a_row_that_shares_nothing_is_not_listed() -> None:
    scores = np.array([[0.5, 0.0], [0.5, 0.0], [0.9, 0.0], [0.0, 0.1]])
    truths = {"q": truth("renamed", "functions", "r0"), "clean": truth(CLEAN)}
    found = rank_matrix(scores, ["r0", "r1", "r2", "r3"], ["q", "clean"], truths)
    assert found["q"] == [Found("r2", 0.9), Found("r1", 0.5), Found("r0", 0.5)]
    assert found["clean"] == [Found("r3", 0.1)]


def test_a_clean_item_with_a_double_in_the_corpus_is_noticed() -> None:
    solution = "    total = 0\n    for each in values:\n        total += each * 2\n    return total\n"
    rows = [("same", "def other(values):\n" + solution), ("far", "def far(x):\n    return [x, x + 1, x * 2]\n")]
    items = [{"item_id": name, "target": solution} for name in ("double", "planted", "clean")]
    ranked = {"double": [Found("same", 1.0)], "planted": [Found("same", 1.0)], "clean": [Found("far", 1.0)]}
    truths = {"double": truth(CONTROL), "planted": truth("verbatim"), "clean": truth(CLEAN)}
    assert near_doubles(items, rows, [ranked], truths) == {"double"}
    assert shared_share(solution, solution.replace("total", "result")) < 0.8


def test_a_query_under_other_names_shares_no_name_with_its_renamed_copy() -> None:
    assert not set(VALUE_WORDS.split()) & set(rename.VALUE_WORDS.split())
    assert not set(FUNCTION_WORDS.split()) & set(rename.FUNCTION_WORDS.split())
    item = {"item_id": "q", "context": PROBLEMS[0].prompt, "target": PROBLEMS[0].canonical_solution}
    asked = renamed_item(item, 1)
    assert asked["context"].endswith(":\n")
    assert asked["context"].count("def ") == 1
    assert '"""' not in asked["context"] + asked["target"]
    assert ast.dump(ast.parse(asked["context"] + asked["target"]).body[-1].returns) == ast.dump(
        ast.Name("bool", ast.Load())
    )


def test_a_row_that_one_variant_does_not_list_gets_its_least() -> None:
    first, second = {"q": [Found("a", 8.0), Found("b", 2.0)]}, {"q": [Found("b", 8.0), Found("c", 4.0)]}
    found = {row.document_id: row.score for row in mean_rankings([first, second])["q"]}
    assert found == pytest.approx({"a": math.sqrt(8 * 4), "b": 4.0, "c": math.sqrt(2 * 4)})


# ---- how it is counted


def test_p_values_compare_with_controls_of_the_same_stratum_only() -> None:
    truths = {
        "a": truth("verbatim"),
        "code control": truth(CONTROL),
        "m": truth("verbatim", "gsm8k"),
        **{f"maths control {place}": truth(CONTROL, "gsm8k") for place in range(3)},
    }
    statistics = dict.fromkeys(truths, 1.0) | {"a": 5.0, "m": 5.0, "maths control 0": 9.0}
    assert p_values(statistics, truths) == {"a": 1 / 2, "m": 2 / 4}


def test_precision_recall_and_f1_by_hand() -> None:
    found = f1({"l1", "l2", "c1", "elsewhere"}, ["l1", "l2", "l3"], ["c1", "c2"])
    assert found == {"precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "f1": pytest.approx(4 / 6)}
    assert f1(set(), ["l1"], ["c1"]) == {"precision": None, "recall": 0.0, "f1": 0.0}


def test_the_oracle_takes_the_best_threshold_and_nothing_is_found_at_zero() -> None:
    statistics = {"l1": 3.0, "l2": 1.0, "c1": 2.0, "c2": 0.0}
    assert oracle_f1(statistics, ["l1", "l2"], ["c1", "c2"]) == pytest.approx(0.8)  # all of 1.0 and more
    assert oracle_f1({"l1": 0.0, "c1": 0.0}, ["l1"], ["c1"]) == 0.0


def test_benjamini_hochberg_by_hand() -> None:
    assert called_leaked({"a": 0.01, "b": 0.02, "c": 0.9, "d": 0.035}, 0.05) == {"a", "b", "d"}
    assert called_leaked({"a": 0.03, "b": 0.9}, 0.05) == set()


def test_clean_queries_are_called_no_more_often_than_promised() -> None:
    """Exchangeable scores, one query among many controls: a union of two methods that are the same is called too often
    without its factor of two only when they differ; here they are independent, which is its worst case."""
    rng, deals, wrong = random.Random(0), 400, 0
    truths = {"q": truth(CLEAN)} | {f"c{place}": truth(CONTROL) for place in range(99)}
    for _ in range(deals):
        first, second = (p_values({name: rng.random() for name in truths}, truths) for _ in range(2))
        wrong += bool(called_leaked(union(first, second), 0.1))
    assert 0.05 < wrong / deals < 0.14  # about 0.0975; without the factor about 0.19


def test_a_grade_counts_its_own_benchmark_only() -> None:
    truths = {
        "hit": truth("renamed", "functions", "r1"),
        "miss": truth("renamed", "functions", "r2"),
        "elsewhere": truth("renamed", "humaneval", "r3"),
        "clean": truth(CLEAN),
        **{f"control {place}": truth(CONTROL) for place in range(200)},
    }
    rankings = {name: [Found("r9", 1.0)] for name in truths}
    rankings |= {"hit": [Found("r9", 9.0), Found("r1", 8.0)], "miss": [Found("r2", 0.5)], "clean": [Found("r9", 2.0)]}
    method = judged(rankings, truths)
    found = grade(method, truths, "functions", {"renamed"})
    assert (found["num_leaked"], found["num_clean"]) == (2, 1)
    assert found["at_0.05"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5}  # the clean one beats all controls too
    assert (found["recall_at_1"], found["recall_at_5"], found["auc"]) == (0.5, 1.0, 0.5)


def test_a_copy_is_called_whatever_its_p_value_and_stays_so_in_a_union() -> None:
    truths = {"copy": truth("verbatim"), "control": truth(CONTROL)}
    method = Method({"copy": 0.0}, {"copy": 1.0}, None, {"copy"})
    assert method.called(0.05, truths) == {"copy"}
    assert either(method, Method({"copy": 0.0}, {"copy": 1.0})).called(0.05, truths) == {"copy"}


def line(document_id: str, z: float, ratio: float) -> dict[str, object]:
    return {"document_id": document_id, "control_z": z, "mirror_ratio": ratio, "row_ratio": ratio, "text_excerpt": ""}


def test_rows_by_product_and_a_row_that_only_words_point_at() -> None:
    rows = {"q": [line("a", 6.0, 0.1), line("b", 4.0, 0.5), line("c", 2.0, 0.05)]}
    assert by_product(rows)["q"] == [Found("b", 2.0), Found("a", pytest.approx(0.6)), Found("c", pytest.approx(0.1))]
    found = {row.document_id: row.score for row in by_product(rows, {"q": [Found("a", 0.95), Found("d", 0.45)]})["q"]}
    assert found == pytest.approx({"a": 0.6 * 1.0, "b": 2.0 * 0.05, "c": 0.1 * 0.05, "d": 0.1 * 0.5})


def test_a_leak_that_stands_twice_keeps_its_gap_below_doubles_only() -> None:
    excerpts = ["the same words twice"] * 2 + ["one", "two", "three", "four"]
    z_scores = [9, 9, 1, 1, 1, 1]
    rows = [line(text, z, 0.1) | {"text_excerpt": text} for text, z in zip(excerpts, z_scores, strict=True)]
    assert gap_below_doubles(rows, {}) == pytest.approx(math.log(9))
    assert gap(rows, {}) == pytest.approx(math.log(9) * 3 / 4)


def test_weights_that_were_fitted_on_the_other_half_cannot_know_a_random_statistic() -> None:
    rng = random.Random(3)
    kinds = ["verbatim"] * 60 + [CLEAN] * 60 + [CONTROL] * 100
    truths = {f"{place:03}": truth(kind) for place, kind in enumerate(kinds)}
    noise = {name: {query: rng.random() for query in truths} for name in map(str, range(20))}
    useful = {query: rng.random() + (each.kind == "verbatim") for query, each in truths.items()}
    told_nothing, told = weighed_together(noise, truths), weighed_together({"0": noise["0"], "useful": useful}, truths)
    assert grade(told_nothing, truths, "functions", {"verbatim"})["auc"] < 0.65  # on its own half it would be 0.8
    assert grade(told, truths, "functions", {"verbatim"})["auc"] > 0.95
    assert told_nothing.called(0.05, truths) == set()
