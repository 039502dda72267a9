"""What `benchmarks.peers` runs: each tool's settings, the ones worth a place in the table first.

The chosen ones are the best of a sweep over all of them (`--sweep`) on the benchmark's own truth: of each tool the
cheapest that loses no recall, the one with the best recall, and its defaults. That tuning is to the peers' favour;
finf runs with the demo's config. A fit on 512 rows instead of all, and gradients of the last block alone, are finf's
own savings, lent to every peer that can.
"""

from dataclasses import dataclass

from finf_core.errors import InputError


@dataclass(frozen=True)
class FinfSettings:
    engine: str  # "forward": one pass over the rows for each query; "one_pass": forward and backward, for all of them
    blocks: int = 0  # only these last blocks move; 0: all
    rank: int = 64  # one_pass: directions of the updates kept on each side of a layer
    fit_rows: int = 512
    batch_tokens: int = 2048


@dataclass(frozen=True)
class BergsonSettings:
    method: str  # a Hessian of its `ekfac` command (kfac, tkfac, shampoo), "trackstar" or "cosine"
    corrected: bool = False  # eigenvalue correction: with kfac, EK-FAC
    projection: int = 0  # of each layer's gradient, on both sides; 0: none
    fit_rows: int = 0  # rows that the Hessian is fitted on; 0: all
    damping: float = 0.1  # its default
    blocks: int = 0  # only layers of these last blocks; 0: all
    batch_tokens: int = 1024  # padded; it refuses more than the model's context


@dataclass(frozen=True)
class KronfluenceSettings:
    strategy: str = "ekfac"
    low_rank: int | None = None  # of each query gradient: its own way to speed up many queries
    fit_rows: int = 0  # rows that the factors are fitted on; 0: all
    rows_per_batch: int = 16
    blocks: int = 0  # only layers of these last blocks; 0: all
    with_head: bool = False  # the tied head too, as it does unless it is told which layers to track
    bfloat16: bool = False  # its `smart_low_precision_score_arguments`


@dataclass(frozen=True)
class DattriSettings:
    method: str = "LoGra"  # or "FactGraSS"
    projection: int = 4096  # numbers kept of each layer's gradient
    hessian: str = "eFIM"  # or "Identity"
    damping: float | None = None  # relative to the mean eigenvalue; None: its default, 1e-5
    blocks: int = 0  # only layers of these last blocks; 0: all
    rows_per_batch: int = 16


Settings = FinfSettings | BergsonSettings | KronfluenceSettings | DattriSettings

CHOSEN: dict[str, dict[str, Settings]] = {
    "finf": {
        "one pass": FinfSettings("one_pass"),
        "one pass, last block": FinfSettings("one_pass", blocks=1),
        "forward": FinfSettings("forward"),
    },
    "bergson": {
        "kfac, fit on 512": BergsonSettings("kfac", fit_rows=512),
        "kfac, fit on 512, projected to 64": BergsonSettings("kfac", fit_rows=512, projection=64),
        "kfac, fit on 512, last block": BergsonSettings("kfac", fit_rows=512, blocks=1),
        "trackstar": BergsonSettings("trackstar", projection=16),
        "ekfac": BergsonSettings("kfac", corrected=True),
    },
    "kronfluence": {
        "kfac, fit on 512": KronfluenceSettings("kfac", fit_rows=512),
        "kfac, fit on 512, last block": KronfluenceSettings("kfac", fit_rows=512, blocks=1),
        "kfac, fit on 512, rank 32": KronfluenceSettings("kfac", fit_rows=512, low_rank=32),
        "ekfac": KronfluenceSettings(),
    },
    "dattri": {
        "logra 1024, damping 0.1": DattriSettings(projection=1024, damping=0.1),
        "logra 1024, damping 0.1, last block": DattriSettings(projection=1024, damping=0.1, blocks=1),
        "factgrass 1024, damping 0.1": DattriSettings("FactGraSS", 1024, damping=0.1),
        "logra 256": DattriSettings(projection=256),
    },
}
TRIED: dict[str, dict[str, Settings]] = {
    "bergson": {
        "kfac, fit on 512, 512 tokens a batch": BergsonSettings("kfac", fit_rows=512, batch_tokens=512),
        "kfac, fit on 512, projected to 32": BergsonSettings("kfac", fit_rows=512, projection=32),
        "ekfac, fit on 512": BergsonSettings("kfac", corrected=True, fit_rows=512),
        "shampoo, corrected": BergsonSettings("shampoo", corrected=True),
        "trackstar, projected to 32": BergsonSettings("trackstar", projection=32),
        "cosine": BergsonSettings("cosine"),
        "cosine, projected to 16": BergsonSettings("cosine", projection=16),
        "cosine, projected to 64": BergsonSettings("cosine", projection=64),
    },
    "kronfluence": {
        "kfac, fit on 512, bfloat16": KronfluenceSettings("kfac", fit_rows=512, bfloat16=True),
        "kfac, fit on 512, 8 rows a batch": KronfluenceSettings("kfac", fit_rows=512, rows_per_batch=8),
        "kfac, fit on 512, 32 rows a batch": KronfluenceSettings("kfac", fit_rows=512, rows_per_batch=32),
        "ekfac, fit on 512": KronfluenceSettings(fit_rows=512),
        "ekfac, fit on 512, rank 64": KronfluenceSettings(fit_rows=512, low_rank=64),
        "ekfac, fit on 512, with head": KronfluenceSettings(fit_rows=512, with_head=True),
    },
    "dattri": {
        "logra 1024, damping 0.1, 8 rows a batch": DattriSettings(projection=1024, damping=0.1, rows_per_batch=8),
        "logra 1024, damping 0.1, 32 rows a batch": DattriSettings(projection=1024, damping=0.1, rows_per_batch=32),
        "logra 1024, no hessian": DattriSettings(projection=1024, hessian="Identity"),
        "logra 256, damping 0.1": DattriSettings(projection=256, damping=0.1),
        "logra 4096, damping 0.1": DattriSettings(damping=0.1),  # minutes for the inverses alone
    },
}


def settings_of(tool: str, variant: str) -> Settings:
    """The settings of one run; raises InputError where there is no such variant."""
    known = CHOSEN.get(tool, {}) | TRIED.get(tool, {})
    if variant not in known:
        raise InputError(f"benchmarks.peers: {tool!r} has no variant {variant!r}; it has {', '.join(known) or 'none'}")
    return known[variant]
