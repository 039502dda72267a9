"""Whatever stands in CONFIG.toml: a spec that can be named, or one InputError."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import fuzz_counts
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_config import GOOD

from finf_core.errors import InputError
from finf_core.fingerprint import fingerprint
from finf_core.spec import ScanSpec
from flows.config_template import SCAN
from tasks.config import KINDS, load_config, parse_config

DIGITS = "9" * 5000
BOMBS = [
    f"name = {DIGITS}",
    f"{GOOD}[rank]\ntop_k = {DIGITS}\n",
    f"{GOOD}[rank]\ntop_k = 9223372036854775808\n",
    f"{GOOD}[update]\nmove_nats = nan\n",
    f"{GOOD}[update]\nmove_nats = inf\n",
    f"{GOOD}[update]\ndamping = -nan\n",
    f"{GOOD}[update]\nseed = 0x{'f' * 5000}\n",
    f"{GOOD}[verdict]\nfdr = 1e-999\n",
    "a = " + "[" * 20_000,
    "a = " + "[" * 900 + "]" * 900,
    "a." * 5000 + "b = 1",
    "[" + "a." * 5000 + "b]",
    "a = " + "{b = " * 5000 + "1" + "}" * 5000,
    "name = 1979-05-27T07:32:00Z\n" + GOOD.replace("name", "nam"),
    'name = "\\ud800"',
    "\ufeff" + GOOD,
    GOOD.replace("bench", "bench\0"),
    GOOD.replace('"m"', '"m\\u0000"'),
    f'{GOOD}"" = 1\n',
    f"{GOOD}[model.digest]\na = 1\n",
]
SECTIONS = {field.name: field.type for field in dataclasses.fields(ScanSpec) if dataclasses.is_dataclass(field.type)}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.sampled_from([10**400, -(2**63), 2**64]),
    st.floats(),
    st.text(max_size=8),
    st.text(alphabet="{}a.[]!:_*\0", max_size=12),
    st.binary(max_size=3),
    st.dates(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def good_values(kind: Any) -> st.SearchStrategy[Any]:
    """Of the right type, so that more than the first check is passed."""
    options = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(options)
    if typing.get_origin(kind) is tuple:
        return st.lists(good_values(options[0]), max_size=3)
    if options:
        return st.one_of(*map(good_values, options))
    if dataclasses.is_dataclass(kind):
        return tables_of(kind)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=6) | st.sampled_from(["{a}", "{a.b}", "last:2", "all", "a.b:c"]),
        int: st.integers(-1, 5) | st.integers(),
        float: st.floats(),
        bool: st.booleans(),
        type(None): st.none(),
    }
    return plain[kind]


def tables_of(spec_type: Any) -> st.SearchStrategy[dict[str, Any]]:
    kinds = typing.get_type_hints(spec_type)
    fields = {name: good_values(kind) | good_values(kind) | VALUES for name, kind in kinds.items()}
    return st.fixed_dictionaries({}, optional=fields) | st.dictionaries(st.sampled_from([*fields, "x"]), VALUES)


CONFIGS = st.fixed_dictionaries(
    {"name": st.just("bench") | VALUES},
    optional={name: tables_of(kind) | tables_of(kind) | VALUES for name, kind in SECTIONS.items()}
    | {"kind": st.sampled_from(KINDS) | VALUES, "x": VALUES},
).map(lambda table: {"name": "bench", "model": {}, "corpus": {}, "queries": {}} | table)


def with_paths(table: dict[str, Any]) -> dict[str, Any]:
    """Most tables would only lack a path."""
    filled = {
        name: {"path": "p"} | table[name] for name in ("model", "corpus", "queries") if isinstance(table[name], dict)
    }
    return table | filled


def assert_spec_or_input_error(read: Any) -> bool:
    """Whether it was a spec; what is one has a fingerprint, or is refused with the key's name."""
    fuzz_counts.tried["config"] += 1
    try:
        spec = read()
        fingerprint(spec)
    except InputError:
        return False
    assert isinstance(spec, ScanSpec)
    return True


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "scan.toml"


@pytest.mark.parametrize("text", BOMBS, ids=lambda text: text[-30:].encode("unicode_escape").decode())
def test_a_config_that_was_made_to_break_the_reader_is_refused(config: Path, text: str) -> None:
    config.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert not assert_spec_or_input_error(lambda: load_config(config))


@given(data=st.binary(max_size=200))
@settings(max_examples=fuzz_counts.NUM_EXAMPLES)
def test_any_bytes_are_a_spec_or_an_input_error(config: Path, data: bytes) -> None:
    config.write_bytes(data)
    assert_spec_or_input_error(lambda: load_config(config))


@given(
    at=st.integers(0, len(SCAN)), length=st.integers(0, 40), text=st.text(max_size=6) | st.sampled_from("=[]{}'\"\n.")
)
@settings(max_examples=fuzz_counts.NUM_EXAMPLES)
def test_a_good_config_with_a_piece_replaced_is_a_spec_or_an_input_error(
    config: Path, at: int, length: int, text: str
) -> None:
    config.write_text(SCAN[:at] + text + SCAN[at + length :], encoding="utf-8")
    assert_spec_or_input_error(lambda: load_config(config))


@given(table=CONFIGS)
@example(table={"name": "bench", "model": {}, "corpus": {}, "queries": {}})
@example(table={"name": "bench", "model": {}, "corpus": {}, "queries": {}, "update": {"move_nats": float("nan")}})
@settings(max_examples=fuzz_counts.NUM_EXAMPLES)
def test_any_table_is_a_spec_or_an_input_error(table: dict[str, Any]) -> None:
    assert_spec_or_input_error(lambda: parse_config(with_paths(table), "scan.toml"))


def test_the_tables_that_are_tried_are_specs_now_and_then() -> None:
    found = []

    @given(table=CONFIGS)
    @settings(max_examples=300, database=None, derandomize=True)
    def tried(table: dict[str, Any]) -> None:
        found.append(assert_spec_or_input_error(lambda: parse_config(with_paths(table), "scan.toml")))

    tried()
    assert 10 < sum(found) < len(found) - 10
