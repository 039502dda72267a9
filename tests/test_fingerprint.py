"""One name for a value: `finf_core.fingerprint`."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finf_core.errors import InputError
from finf_core.fingerprint import digest_chunks, fingerprint, short
from finf_core.spec import CorpusSpec, DiffusionSpec, ImagesSpec, ModelSpec, QueriesSpec, RankSpec, ScanSpec, UpdateSpec


@dataclass(frozen=True)
class Point:
    x: Any


@dataclass(frozen=True)
class Place:
    x: Any


@dataclass(frozen=True)
class Apple:
    type: str


@dataclass(frozen=True)
class Pear:
    type: str


finite = st.floats(allow_nan=False, allow_infinity=False)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def exactly(value: Any) -> Any:
    """A value that is equal for the same value only: 1, 1.0 and True differ, the order of a mapping does not matter."""
    if isinstance(value, list):
        return ("list", [exactly(item) for item in value])
    if isinstance(value, dict):
        return ("dict", sorted((key, exactly(item)) for key, item in value.items()))
    return (type(value).__name__, repr(value))


# ---- the same value --------------------------------------------------------------------------------------------------

SCAN = ScanSpec(
    name="scan",
    model=ModelSpec(path="model"),
    corpus=CorpusSpec(path="s3://bucket/corpus/*.parquet"),
    queries=QueriesSpec(path="queries.jsonl", limit=5),
    update=UpdateSpec(learning_rate=0.1),
)


def test_another_process_with_another_hash_seed_gives_the_same_fingerprint() -> None:
    source = """
from finf_core.fingerprint import fingerprint
from finf_core.spec import UpdateSpec
print(fingerprint([UpdateSpec(learning_rate=0.1), {"b": 1.5, "a": b"x"}]))
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", source],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {fingerprint([UpdateSpec(learning_rate=0.1), {"a": b"x", "b": 1.5}])}


def test_a_fingerprint_never_changes_from_one_version_to_the_next() -> None:
    """Golden: folders in storage carry this name."""
    value = {"text": "é", "numbers": [1, 1.0, True, None], "bytes": b"\x00", "point": Point(x=Path("a/b"))}
    assert fingerprint(value) == "64813b1f2261a29cecfd9f4d2ecd9b7943f0a552f984e2db7960dbea75fc1fe6"


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_a_mapping_does_not_matter(mapping: dict[str, int]) -> None:
    assert fingerprint(dict(reversed(mapping.items()))) == fingerprint(mapping)


def test_a_path_has_one_fingerprint_on_every_system() -> None:
    assert fingerprint(PureWindowsPath("a\\b")) == fingerprint(Path("a/b"))


def test_a_short_fingerprint_is_the_start_of_the_long_one() -> None:
    assert fingerprint(SCAN).startswith(short(fingerprint(SCAN)))
    assert len(short(fingerprint(SCAN))) == 12


@given(st.lists(st.binary()))
def test_a_digest_does_not_depend_on_how_the_bytes_arrive(chunks: list[bytes]) -> None:
    assert digest_chunks(chunks) == digest_chunks([b"".join(chunks)])


# ---- differing values ------------------------------------------------------------------------------------------------


@given(plain_values, plain_values)
def test_differing_values_have_differing_fingerprints(one: Any, other: Any) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (exactly(one) == exactly(other))


def test_values_that_look_alike_have_differing_fingerprints() -> None:
    """Among them each way in which a value could pass for the form that another is written down in."""
    alike = [
        1, 1.0, True, "1", "1.0", "true", "True", b"1", 0, 0.0, False, None, "null", "None", "", b"", [], {}, [[]], [1],
        [[1]], [1, 1], ["1"], {"1": 1}, {"1": "1"}, 0.1, 0.1 + 2**-56, 10**30, 1e30,
        (1.0).hex(), b"1".hex(), {"float": (1.0).hex()}, {"bytes": b"1".hex()}, {"path": "a"}, Path("a"),
        "a", {"mapping": {}}, {"mapping": {"1": 1}},
        Point(1), Place(1), Point(1.0), {"x": 1}, {"type": "Point", "x": 1}, Point({"x": 1}), Point(Point(1)),
        "\ud800", "\\ud800",
    ]  # fmt: skip
    for one, other in combinations(alike, 2):
        assert fingerprint(one) != fingerprint(other), (one, other)


def test_a_field_that_is_called_type_does_not_hide_the_class() -> None:
    assert fingerprint(Apple(type="ripe")) != fingerprint(Pear(type="ripe"))


CHOICES = {"choices_column": "choices", "answer_column": "answer"}
FACTORY = {"kind": "classifier", "factory": "networks:build"}
GO_TOGETHER: dict[str, dict[str, dict[str, Any]]] = {  # fields that the spec's checks let change only with others
    "model": {
        "kind": FACTORY,
        "factory": FACTORY | {"factory": "networks:other"},
        "images": {"images": ImagesSpec(size=7)},
        "diffusion": {"kind": "diffusion", "diffusion": DiffusionSpec(timesteps=7)},
    },
    "corpus": {
        "columns": {"columns": ("a",)},
        "label_names": {"label_column": "label", "label_names": ("a",)},
        "text_template": {"text_template": "{a}"},
        "loss_on": {"messages_column": "chat", "loss_on": "assistant"},
    },
    "queries": {"choices_column": CHOICES, "answer_column": CHOICES | {"answer_column": "other"}},
}


@pytest.mark.parametrize("part", ["model", "corpus", "queries", "update", "rank"])
def test_every_field_of_a_spec_is_part_of_its_fingerprint(part: str) -> None:
    section = getattr(SCAN, part)
    changes = dict(GO_TOGETHER.get(part, {}))
    alone = [field.name for field in fields(section) if field.name not in changes]
    changes |= {name: {name: changed(getattr(section, name))} for name in alone}
    if part == "update":  # some only go together
        section = replace(section, kind="adam_moments", optimizer_state="optimizer.pt")
        changes["kind"] = {"kind": "ekfac", "optimizer_state": None}
        changes["refine_steps"] = changes["kind"] | {"refine_steps": 2}
        changes["optimizer_state"] = {"optimizer_state": "another.pt"}
    found = {fingerprint(replace(section, **change)) for change in changes.values()}
    assert len(found | {fingerprint(section)}) == len(changes) + 1


def test_every_section_is_part_of_the_spec_s_fingerprint() -> None:
    changes: dict[str, Any] = {
        "model": {"overlap_tokens": 7},
        "corpus": {"path": "other"},
        "queries": {"limit": 7},
        "update": {"seed": 7},
        "rank": {"top_k": 7},
        "strategy": {"rank": 7},
        "verdict": {"fdr": 0.07},
        "duplicates": {"most_rows": 7},
    }
    found = {
        fingerprint(replace(SCAN, **{part: replace(getattr(SCAN, part), **each)})) for part, each in changes.items()
    }
    assert len(found | {fingerprint(SCAN)}) == len(changes) + 1


def changed(value: Any) -> Any:
    """Another value that the spec's own checks let pass."""
    if value is None:
        return 3
    return f"{value}x" if isinstance(value, str) else value + 1


def test_a_default_written_out_is_the_same_spec() -> None:
    assert fingerprint(replace(SCAN, rank=RankSpec(top_k=20))) == fingerprint(SCAN)


# ---- what has no lasting name ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: lambda: 0,
        object,
        lambda: sys.stdout,
        lambda: float("nan"),
        lambda: float("inf"),
        lambda: {1, 2},
        lambda: Point,
        lambda: 1j,
        lambda: {1: "a key that is no text"},
    ],
    ids=["lambda", "object", "open file", "nan", "infinity", "set", "class", "complex", "number as key"],
)
def test_what_has_no_lasting_name_is_refused_with_the_place_where_it_stands(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r"^value\['rows'\]\[1\]\.x: "):
        fingerprint({"rows": [0, Point(x=make())]})
