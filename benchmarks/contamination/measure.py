"""All methods on one setting: the cells of the table and the headline."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contamination.inputs import CLEAN
from benchmarks.contamination.judge import RATES, Method, f1, grade, queries_of
from benchmarks.contamination.leaks import KIND_GROUPS
from benchmarks.contamination.methods import SAMPLED, Answers, either
from benchmarks.contamination.settings import STRATUM

PARTNERS = ("ngram_words", "structure")  # lexical methods that finf is united with


def measure(folder: Path, lexical: tuple[str, ...], with_sampled: bool) -> dict[str, Any]:
    """Cells by method, benchmark and kind; and F1 over all benchmarks by method and kind."""
    started = time.monotonic()
    answers = Answers(folder)
    methods: dict[str, Method] = {name: answers.lexical(name) for name in lexical}
    methods = answers.finf() | methods
    for partner in PARTNERS:
        if partner in methods:
            methods[f"finf + {partner}"] = either(methods["finf"], methods[partner])
    found: dict[str, Any] = {
        "num_near_doubles": len(answers.doubles),
        "cells": {name: cells(method, answers) for name, method in methods.items()},
    }
    if with_sampled:
        sampled = {name: answers.sampled(name) for name in SAMPLED}
        sampled["finf"] = answers.on_sample(methods["finf"])
        found["sampled"] = {name: cells(method, answers) for name, method in sampled.items()}
    found["clean_called"] = {name: clean_called(method, answers) for name, method in methods.items()}
    found["f1"] = {name: headline(method, answers, RATES[-1]) for name, method in methods.items()}
    found[f"f1_at_{RATES[0]:g}"] = {name: headline(method, answers, RATES[0]) for name, method in methods.items()}
    return found | {"seconds": round(time.monotonic() - started, 1)}


def cells(method: Method, answers: Answers) -> dict[str, dict[str, Any]]:
    """Benchmark -> kind -> grade, for the kinds that are there."""
    found: dict[str, dict[str, Any]] = {}
    for benchmark in STRATUM:
        for group, kinds in KIND_GROUPS.items():
            if all(queries_of(method, answers.truths, {benchmark}, set(kinds))):
                found.setdefault(benchmark, {})[group] = grade(method, answers.truths, benchmark, set(kinds))
    return found


def headline(method: Method, answers: Answers, rate: float) -> dict[str, float]:
    """F1 by kind over all benchmarks in which it leaked, with their clean queries."""
    found = {}
    for group, kinds in KIND_GROUPS.items():
        benchmarks = {truth.benchmark for truth in answers.truths.values() if truth.kind in kinds}
        leaked, clean = queries_of(method, answers.truths, benchmarks, set(kinds))
        if leaked:
            found[group] = f1(method.called(rate, answers.truths), leaked, clean)["f1"]
    return found


def clean_called(method: Method, answers: Answers) -> dict[str, Mapping[str, int]]:
    """At each rate: how many were called leaked, and how many of these are clean."""
    kind_of = {query: answers.truths[query].kind for query in method.p_values}
    return {
        f"at_{rate:g}": {"called": len(called), "clean": sum(kind_of[query] == CLEAN for query in called)}
        for rate in RATES
        for called in [method.called(rate, answers.truths)]
    }
