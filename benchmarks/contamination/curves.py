"""What makes renamed leaks visible? Size of the model, epochs, occurrences: a small corpus, one changed at a time."""

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.contamination.settings import Setting

BASE = Setting(
    num_rows=1200,
    maths_share=0.0,
    leaks={"humaneval": {"renamed": 40, "c": 20, "javascript": 20}, "functions": {"renamed": 40}},
    clean={"humaneval": 60, "functions": 40},
    controls={"functions": 200},
)
CURVES: Mapping[str, Setting] = {
    "8 epochs, planted once": BASE,
    "planted four times": replace(BASE, occurrences=4),
    "16 epochs": replace(BASE, train=replace(BASE.train, num_epochs=16)),
    "2 epochs": replace(BASE, train=replace(BASE.train, num_epochs=2)),
    "a smaller model": replace(BASE, train=replace(BASE.train, hidden_size=64, intermediate_size=172)),
    "a larger model": replace(BASE, train=replace(BASE.train, hidden_size=256, intermediate_size=688)),
}
