"""All methods on one setting: the cells of the table and the headline."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contamination.curves import BASE
from benchmarks.contamination.finf_scan import scan_inputs, scan_seconds
from benchmarks.contamination.inputs import CLEAN, CONTROL
from benchmarks.contamination.judge import RATES, Method, f1, grade, queries_of
from benchmarks.contamination.leaks import KIND_GROUPS
from benchmarks.contamination.methods import SAMPLED, Answers, either
from benchmarks.contamination.prepare import prepare, say
from benchmarks.contamination.settings import CODE, STRATUM, Setting

PARTNERS = ("ngram_words", "structure")  # lexical methods that finf is united with


def measure(folder: Path, lexical: tuple[str, ...], with_sampled: bool) -> dict[str, Any]:
    """Cells by method, benchmark and kind; and F1 over all benchmarks by method and kind."""
    started = time.monotonic()
    answers = Answers(folder)
    methods: dict[str, Method] = {name: answers.lexical(name) for name in lexical}
    methods = answers.finf() | answers.reworded() | methods
    for partner in PARTNERS:  # it reads the whole item: nothing is chosen by the truth here
        methods[f"finf + {partner}"] = either(methods["finf"], answers.lexical_part(partner, "whole"))
    found: dict[str, Any] = {
        "facts": facts(folder, answers),
        "cells": {name: cells(method, answers) for name, method in methods.items()},
    }
    if with_sampled:
        sampled = {name: answers.sampled(name) for name in SAMPLED}
        sampled["finf"] = answers.on_sample(methods["finf"])
        found["sampled"] = {name: cells(method, answers) for name, method in sampled.items()}
    found["ingredients"] = {name: cells(method, answers) for name, method in answers.ingredients(CODE).items()}
    found["clean_called"] = {name: clean_called(method, answers) for name, method in methods.items()}
    found["f1"] = {name: headline(method, answers, RATES[-1]) for name, method in methods.items()}
    found[f"f1_at_{RATES[0]:g}"] = {name: headline(method, answers, RATES[0]) for name, method in methods.items()}
    return found | {"seconds": round(time.monotonic() - started, 1)}


def facts(folder: Path, answers: Answers) -> dict[str, Any]:
    """What the page says of the run."""
    trained = json.loads((folder / "trained.json").read_text())
    epochs = json.loads((folder / "setting.json").read_text())["train"]["num_epochs"]
    kinds = [truth.kind for query, truth in answers.truths.items() if query not in answers.doubles]
    return {
        "num_rows": len(answers.rows),
        "num_planted": sum(kind not in (CLEAN, CONTROL) for kind in kinds),
        "num_clean": kinds.count(CLEAN),
        "num_controls": kinds.count(CONTROL),
        "num_near_doubles": len(answers.doubles),
        "num_epochs": epochs,
        "num_tokens": trained["num_tokens"],
        "num_parameters": trained["num_parameters"],
        "last_epoch_nats": trained["last_epoch_nats"],
        "training_minutes": trained["seconds"] / 60,
        "scan_minutes": sum(scan_seconds(scan_inputs(folder, stratum)) for stratum in answers.items) / 60,
    }


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


def measure_curves(root: Path, curves: Mapping[str, Setting]) -> dict[str, Any]:
    """finf's cells at each point, and how well the model learned its corpus; at the base, all ingredients."""
    found: dict[str, Any] = {}
    for name, setting in curves.items():
        say(f"curve: {name}")
        folder = prepare(root, setting)
        answers = Answers(folder)
        trained = json.loads((folder / "trained.json").read_text())
        found[name] = {"cells": {each: cells(method, answers) for each, method in answers.finf().items()}, **trained}
        if setting == BASE:
            others = answers.ingredients(CODE) | answers.reworded()
            found[name]["ingredients"] = {each: cells(method, answers) for each, method in others.items()}
    return found
