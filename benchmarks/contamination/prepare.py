"""The corpus and the model of a setting, made once: benchmark-runs/contamination/<fingerprint>/."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.contamination.inputs import read_rows, write_inputs
from benchmarks.contamination.settings import Setting
from finf_core.fingerprint import fingerprint, short
from tasks.demo.train import train_model


def prepare(root: Path, setting: Setting) -> Path:
    """The folder of the setting, with inputs/, model/ and, last, trained.json."""
    folder = root / short(fingerprint(setting))
    if (folder / "trained.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "setting.json").write_text(json.dumps(asdict(setting), indent=2))
    write_inputs(folder, setting)
    texts = [text for _, text in read_rows(folder)]
    say(f"{folder.name}: training on {len(texts):,} rows")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = train_model(texts, folder / "model", setting.train, _say_progress, device)
    found = {name: value for name, value in asdict(trained).items() if name != "folder"}
    (folder / "trained.json").write_text(json.dumps(found))
    return folder


def _say_progress(share: float, line: str) -> None:
    say(f"  {share:4.0%}  {line}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
