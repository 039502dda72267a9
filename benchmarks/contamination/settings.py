"""Sizes of a run: what is planted how often, in how large a corpus, and the model that is trained on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tasks.demo.train import TrainSettings

CODE, MATHS = "code", "maths"
STRATUM = {"humaneval": CODE, "functions": CODE, "gsm8k": MATHS}  # queries are judged by controls of their own stratum

Counts = Mapping[str, int]

HUMANEVAL_LEAKS: Counts = {"verbatim": 20, "reformatted": 20, "renamed": 24, "rephrased": 16, "c": 16, "javascript": 16}
LEAKS: Mapping[str, Counts] = {
    "humaneval": HUMANEVAL_LEAKS,
    "functions": {"verbatim": 40, "reformatted": 40, "renamed": 60},
    "gsm8k": {"verbatim": 60, "reformatted": 60},
}
CLEAN: Counts = {"humaneval": 52, "functions": 60, "gsm8k": 120}
CONTROLS: Counts = {"functions": 250, "gsm8k": 400}


@dataclass(frozen=True)
class Setting:
    """Everything that could change a number of this benchmark."""

    num_rows: int = 20_000  # beside the plants
    maths_share: float = 0.37  # GSM8K training problems; the rest are functions
    row_chars: tuple[int, int] = (120, 400)  # of functions
    leaks: Mapping[str, Counts] = field(default_factory=lambda: LEAKS)
    clean: Counts = field(default_factory=lambda: CLEAN)
    controls: Counts = field(default_factory=lambda: CONTROLS)
    occurrences: int = 1  # of each planted row
    seed: int = 0
    train: TrainSettings = field(default_factory=lambda: TrainSettings(max_row_tokens=1536))


GPU = Setting(  # one GPU, about an hour; never run so far: no machine of ours has one
    num_rows=24_000,
    train=TrainSettings(
        vocab_size=16_384,
        hidden_size=768,
        intermediate_size=2048,
        num_layers=12,
        num_heads=12,
        initial_spread=0.02,
        max_row_tokens=1536,
        batch_tokens=16_384,
        learning_rate=6e-4,
    ),
)
PRESETS = {"cpu": Setting(), "gpu": GPU}


def scaled(setting: Setting, share: float) -> Setting:
    """The same with fewer rows, plants, clean items and controls."""

    def fewer(counts: Counts) -> Counts:
        return {name: max(2, round(num * share)) for name, num in counts.items()}

    return replace(
        setting,
        num_rows=round(setting.num_rows * share),
        leaks={name: fewer(counts) for name, counts in setting.leaks.items()},
        clean=fewer(setting.clean),
        controls=fewer(setting.controls),
    )
