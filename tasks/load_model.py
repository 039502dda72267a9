"""Load the model of a spec, whatever its kind, and name it by its content."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finf_core.adapter import Adapter
from finf_core.classifier import Classifier, Labeled
from finf_core.errors import CheckpointError
from finf_core.fingerprint import digest_chunks, fingerprint
from finf_core.images import image_features
from finf_core.losses import ExampleLoss
from finf_core.spec import CorpusSpec, ImagesSpec, ModelSpec
from tasks.checkpoint import digest_checkpoint, load_language_model, local_checkpoint
from tasks.checkpoint_files import check_weights, library_errors
from tasks.denoiser import digest_denoiser, noised_images, read_denoiser
from tasks.items import IMAGE, LABEL, Item, ItemReader
from tasks.loaded_model import ItemModel, LoadedModel
from tasks.safetensors_header import FLOATS, StoredTensor, read_header

BATCH_ITEMS = {"cpu": 64, "cuda": 512}


def load_model(
    spec: ModelSpec, corpus: CorpusSpec, batch_tokens: int | None = None, compiled: bool | None = None
) -> LoadedModel:
    """Load a model on the GPU if there is one.

    Args:
        batch_tokens: padded tokens (of items: items) in one forward pass; None: what suits the device.
        compiled: whether to run compiled kernels (`finf_core.kernels`); None: on a GPU, where they pay. Text only.

    Raises:
        CheckpointError: unreadable or incomplete weights, or code that cannot be found or gives no network.
    """
    if spec.reads_text:
        return load_language_model(spec, batch_tokens, compiled)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    is_folder = spec.kind == "diffusion" and spec.factory is None
    adapter, example = read_denoiser(spec, corpus) if is_folder else _build(spec)
    adapter.module.to(device, getattr(torch, spec.dtype)).eval().requires_grad_(False)
    return ItemModel(
        adapter=adapter,
        batch_tokens=batch_tokens or BATCH_ITEMS[device],
        context_tokens=spec.diffusion.timesteps if spec.kind == "diffusion" else 1,
        reader=ItemReader(corpus),
        example=example,
    )


def digest_model(spec: ModelSpec) -> str:
    """SHA-256 over whatever decides the model's behaviour: its files, and the code that builds it.

    Of that code, the file that holds the factory; what it imports is not looked at.
    """
    if spec.kind == "diffusion" and spec.factory is None:
        return digest_denoiser(spec.path)
    digest = digest_checkpoint(local_checkpoint(spec.path))
    if spec.factory is None:
        return digest
    source = inspect.getsourcefile(_factory(spec))
    code = None if source is None else digest_chunks([Path(source).read_bytes()])
    return fingerprint([digest, spec.factory, code])


@dataclass(frozen=True)
class LabeledImages:
    """Items with an image and a label, as examples of a classifier."""

    spec: ImagesSpec

    def __call__(self, item: Item) -> Labeled:
        return Labeled(image_features(item[IMAGE], self.spec), item[LABEL])


class OwnItem(dict[str, Any]):
    """The columns of one row, as `collate` is given them; it counts as one."""

    def __len__(self) -> int:
        return 1


class OwnAdapter:
    """An adapter of somebody else's, whose `collate` is given rows as dictionaries. All else of it is as it was."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    @property
    def module(self) -> nn.Module:
        return self._adapter.module

    def loss(self, batch: Any) -> ExampleLoss:
        return self._adapter.loss(batch)

    def collate(self, examples: Sequence[OwnItem]) -> Any:
        return self._adapter.collate([dict(example) for example in examples])


def _build(spec: ModelSpec) -> tuple[Adapter, Callable[[Item], Any]]:
    """What the factory gives, with its weights, and how an item becomes an example of it."""
    built = _factory(spec)()
    module = getattr(built, "module", None) if spec.kind == "own" else built
    if not isinstance(module, nn.Module):
        wanted = "an adapter (module, collate, loss)" if spec.kind == "own" else "a torch module"
        raise CheckpointError(f"model.factory = {spec.factory!r} gives a {type(built).__name__}, not {wanted}")
    _load_weights(module, spec)
    if spec.kind == "own":
        return OwnAdapter(built), OwnItem
    if spec.kind == "diffusion":
        return noised_images(module, spec)
    return Classifier(module), LabeledImages(spec.images)


def _factory(spec: ModelSpec) -> Callable[[], Any]:
    """The function that the spec names; modules of the working directory are found too.

    Raises:
        CheckpointError: there is none of that name.
    """
    module_name, _, function = (spec.factory or "").partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found: Callable[[], Any] = getattr(import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"model.factory = {spec.factory!r}: {error}; is its folder the working directory, or in PYTHONPATH?"
        ) from error
    return found


def _load_weights(module: nn.Module, spec: ModelSpec) -> None:
    import safetensors.torch

    stored: dict[str, StoredTensor] = {}
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(local_checkpoint(spec.path).glob("*.safetensors")):
        stored |= read_header(file)
        with library_errors(str(file)):
            weights |= safetensors.torch.load_file(file)
    _check_tensors(stored, module.state_dict(), spec.path)
    module.load_state_dict(weights)
    check_weights(module, stored, spec.path)


def _check_tensors(stored: Mapping[str, StoredTensor], wanted: Mapping[str, torch.Tensor], path: str) -> None:
    """Raises CheckpointError: a tensor is missing, too many, of another shape, or no floats where floats are wanted."""
    for name in [*(wanted.keys() - stored.keys()), *(stored.keys() - wanted.keys())]:
        where = "missing from the weights" if name in wanted else "not in the network that the factory builds"
        raise CheckpointError(f"{path}: tensor {name!r} is {where}")
    for name, tensor in stored.items():
        if tensor.shape != tuple(wanted[name].shape):
            shape = tuple(wanted[name].shape)
            raise CheckpointError(f"{tensor.file}: tensor {name!r} has shape {tensor.shape}, the network wants {shape}")
        if wanted[name].is_floating_point() and tensor.dtype not in FLOATS:
            raise CheckpointError(f"{tensor.file}: tensor {name!r} has dtype {tensor.dtype}, not one of floats")
