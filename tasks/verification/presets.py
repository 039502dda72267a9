"""The presets of `finf verify`: settings, data and the folder in the store that is named after them."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy
import torch

from finf_core.errors import InputError
from finf_core.fingerprint import digest_chunks, fingerprint, short
from tasks import storage
from tasks.progress import Meter
from tasks.verification.adapter_groups import AdapterCheck, AdapterSettings
from tasks.verification.convex import Convex, ConvexSettings
from tasks.verification.images import FASHION_MNIST, load_images
from tasks.verification.mislabelled_images import GroupSettings
from tasks.verification.nonconvex import Nonconvex, NonconvexSettings
from tasks.verification.points import PointSettings
from tasks.verification.products import Products
from tasks.verification.spoilt_rows import make_material

VERIFICATION_VERSION = 1  # another one when a change of code changes a number
AUTHORS_SEED = 42
ADAPTERS = {
    "classifier": AdapterSettings("classifier", num_rows=1000, num_test=400, num_epochs=15, learning_rate=0.05),
    "diffusion": AdapterSettings("diffusion", num_rows=1000, num_test=400, num_epochs=25, learning_rate=4e-3),
    "causal_lm": AdapterSettings("causal_lm", num_rows=400, num_test=48, num_epochs=6, learning_rate=3e-3),
}
PRESETS = ("convex", "nonconvex", *ADAPTERS)

Settings = ConvexSettings | NonconvexSettings | AdapterSettings


class Check(Protocol):
    products: Products

    def stages(self, meter: Meter) -> list[tuple[str, Callable[[], object]]]: ...

    def result(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Verification:
    """A check that is ready to run; its stages are safe to run again and do only what is missing in the store."""

    preset: str
    settings: Settings
    check: Check

    def publish(self) -> dict[str, Any]:
        """The result with what explains it, as `result.json` beside the products."""
        result = {
            "preset": self.preset,
            **self.check.result(),
            "sizes_and_seeds": asdict(self.settings),
            "seconds": round(self.check.products.seconds(), 1),
            "versions": {"torch": torch.__version__, "numpy": np.__version__, "scipy": scipy.__version__},
            "run": self.check.products.folder,
        }
        uri = storage.join(self.check.products.folder, "result.json")
        storage.publish_bytes(uri, json.dumps(result, indent=1).encode())
        return result


def preset_settings(preset: str, seed: int | None = None) -> Settings:
    """The settings of a preset.

    Args:
        seed: of the split, the groups and the networks; None: the authors'.

    Raises:
        InputError: there is no such preset.
    """
    seed = AUTHORS_SEED if seed is None else seed
    if preset == "convex":
        return ConvexSettings(seed=seed)
    if preset == "nonconvex":
        return NonconvexSettings(GroupSettings(seed=seed), PointSettings(seed=seed))
    if preset in ADAPTERS:
        return replace(ADAPTERS[preset], seed=seed)
    raise InputError(f"finf verify: no preset {preset!r}; want one of {', '.join(PRESETS)}")


def open_verification(settings: Settings, store: str, data: Path = FASHION_MNIST) -> Verification:
    """A check of any size; its folder in the store is named after settings and data.

    Args:
        data: the folder with Fashion-MNIST, which the paper's two checks are made of.
    """
    if isinstance(settings, AdapterSettings):
        material = make_material(settings)
        products = _products(store, settings.kind, settings, material.digest)
        return Verification(settings.kind, settings, AdapterCheck(settings, material, products))
    images = load_images(data)
    digest = digest_chunks([images.pixels_NP.tobytes(), images.labels_N.tobytes()])
    if isinstance(settings, ConvexSettings):
        products = _products(store, "convex", settings, digest)
        return Verification("convex", settings, Convex(settings, images, products))
    products = _products(store, "nonconvex", settings, digest)
    return Verification("nonconvex", settings, Nonconvex(settings, images, products))


def _products(store: str, preset: str, settings: Settings, digest: str) -> Products:
    mark = short(fingerprint({"version": VERIFICATION_VERSION, "settings": settings, "data": digest}))
    return Products(storage.join(store, f"verify-{preset}-{mark}"))
