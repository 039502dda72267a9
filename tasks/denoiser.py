"""Denoisers in a folder of diffusers: `unet/` or `transformer/` (config.json, safetensors) and `scheduler/`.

Looked at as every checkpoint from strangers is (`tasks.checkpoint_files`): no code of it runs, nothing is unpickled.
The network is one of the library's own classes that is asked with an image and a timestep alone. Of the scheduler only
its numbers are read: which noise the network was trained with, and what it predicts.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from finf_core.diffusion import CleanImage, Diffusion
from finf_core.errors import CheckpointError, InputError
from finf_core.extras import import_extra
from finf_core.fingerprint import fingerprint
from finf_core.images import image_features
from finf_core.noise_schedule import NoiseSchedule, betas_of
from finf_core.spec import CorpusSpec, ImagesSpec, ModelSpec, ScheduleSpec
from tasks import storage
from tasks.checkpoint import check_folder, digest_checkpoint, local_folder
from tasks.checkpoint_files import CONFIG, check_files, check_weights, library_errors, read_json, read_tensors
from tasks.items import IMAGE, Item
from tasks.safetensors_header import FLOATS, StoredTensor

NETWORKS, SCHEDULER = ("unet", "transformer"), "scheduler"
SCHEDULE_FILE = "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CHANNELS = {"L": 1, "RGB": 3}
CLASSES = ("num_class_embeds", "class_embed_type", "num_embeds_ada_norm")  # set where the network wants a class, too


@dataclass(frozen=True)
class NoisedImages:
    """Items with an image, as examples of a denoiser."""

    spec: ImagesSpec
    num_timesteps: int

    def __call__(self, item: Item) -> CleanImage:
        return CleanImage(image_features(item[IMAGE], self.spec), self.num_timesteps)


def noised_images(module: nn.Module, spec: ModelSpec) -> tuple[Diffusion, NoisedImages]:
    """A network that is there already, with the schedule of the config."""
    schedule = spec.diffusion.schedule
    noises = NoiseSchedule.of_betas(betas_of(schedule), schedule.prediction_type)
    return _adapter(module, noises, spec), NoisedImages(spec.images, spec.diffusion.timesteps)


def read_denoiser(spec: ModelSpec, corpus: CorpusSpec) -> tuple[Diffusion, NoisedImages]:
    """The network and the schedule of the folder; images are as large as the network says, unless the config does.

    Raises:
        CheckpointError: unreadable or incomplete weights, or a network or schedule that is not of the kind wanted.
        InputError: it reads other channels than the corpus' images have.
    """
    network, scheduler = _parts(spec.path)
    config = read_json(network / CONFIG)
    _check_channels(network / CONFIG, config, corpus)
    adapter = _adapter(_load_network(network, config), read_schedule(scheduler / SCHEDULE_FILE), spec)
    size = config.get("sample_size")
    known = spec.images.size is None and isinstance(size, int)
    images = replace(spec.images, size=size) if known else spec.images
    return adapter, NoisedImages(images, spec.diffusion.timesteps)


def digest_denoiser(path: str) -> str:
    """SHA-256 over the files of network and scheduler."""
    return fingerprint([digest_checkpoint(part) for part in _parts(path)])


def read_schedule(file: Path) -> NoiseSchedule:
    """Raises CheckpointError: no noise of the kind that `finf_core.noise_schedule` knows."""
    config = read_json(file)
    if config.get("rescale_betas_zero_snr") or "beta_schedule" not in config:
        kind = config.get("_class_name", "unknown")
        raise CheckpointError(
            f"{file}: {kind}, a schedule without plain betas; finf knows linear, scaled_linear, squaredcos_cap_v2"
        )
    keys = ("prediction_type", "beta_schedule", "beta_start", "beta_end")
    found = {key: config[key] for key in keys if config.get(key) is not None}
    if (num := config.get("num_train_timesteps")) is not None:
        found["train_timesteps"] = num
    try:
        spec = TypeAdapter(ScheduleSpec).validate_python(found)
        betas = config.get("trained_betas")
        betas_T = betas_of(spec) if betas is None else torch.tensor(TypeAdapter(list[float]).validate_python(betas))
        return NoiseSchedule.of_betas(betas_T, spec.prediction_type)
    except (ValidationError, InputError) as error:
        raise CheckpointError(f"{file}: {_reason(error)}") from error


def _check_channels(file: Path, config: Mapping[str, Any], corpus: CorpusSpec) -> None:
    reads, predicts = config.get("in_channels"), config.get("out_channels")
    if reads != predicts:
        raise CheckpointError(
            f"{file}: the network predicts {predicts} channels of {reads}: finf wants as many as it reads"
        )
    if reads != CHANNELS[corpus.image_mode]:
        raise InputError(
            f"{file}: the network reads {reads} channels, and images of corpus.image_mode = {corpus.image_mode!r} "
            f"have {CHANNELS[corpus.image_mode]}"
        )


def _adapter(module: nn.Module, schedule: NoiseSchedule, spec: ModelSpec) -> Diffusion:
    diffusion = spec.diffusion
    return Diffusion(module, schedule, diffusion.timesteps, diffusion.seed, diffusion.normalise)


def _parts(path: str) -> tuple[Path, Path]:
    """The folders of network and scheduler on this machine, looked at."""
    networks = [folder for name in NETWORKS if (folder := _part(path, name)) is not None]
    scheduler = _part(path, SCHEDULER)
    if not networks or scheduler is None:
        raise CheckpointError(f"{path}: want a folder of diffusers: unet/ or transformer/, and scheduler/, in it")
    check_folder(networks[0], str(networks[0]))
    check_files(scheduler)
    return networks[0], scheduler


def _part(path: str, name: str) -> Path | None:
    if "://" in path:
        uri = storage.join(path, name)
        return local_folder(uri) if storage.list_names(uri) else None
    folder = local_folder(path) / name
    return folder if folder.is_dir() else None


def _load_network(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    network_class = _network_class(folder, config)
    stored = read_tensors(folder, WEIGHTS)
    with library_errors(str(folder)):
        _check_shapes(folder, network_class, config, stored)
        loaded: Any = network_class.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    module, info = loaded
    wrong = [str(name) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[key]]
    if wrong:
        raise CheckpointError(
            f"{folder}: {len(wrong)} weights are missing, misshapen or too many, the first is {wrong[0]}"
        )
    check_weights(module, stored, str(folder))
    found: nn.Module = module
    return found


def _network_class(folder: Path, config: Mapping[str, Any]) -> Any:
    """One of the classes of diffusers, by name, that takes an image and a timestep, and nothing else that it needs."""
    diffusers = import_extra("diffusers", "diffusion", "model.kind = 'diffusion' reads folders by diffusers")
    diffusers.utils.logging.set_verbosity_error()  # what is missing is refused here
    file, name = folder / CONFIG, config.get("_class_name")
    found: Any = getattr(diffusers, name, None) if isinstance(name, str) else None
    is_network = isinstance(found, type) and issubclass(found, diffusers.ModelMixin)
    if not is_network:
        raise CheckpointError(f"{file}: _class_name = {name!r} is no network of diffusers {diffusers.__version__}")
    wanted = [key for key, each in inspect.signature(found.forward).parameters.items() if each.default is each.empty]
    others = set(wanted) - {"self", "sample", "hidden_states", "timestep"}
    classes = [key for key in CLASSES if config.get(key) is not None]
    if others or classes or "timestep" not in inspect.signature(found.forward).parameters:
        more = ", ".join(sorted(others) or classes) or "no timestep"
        raise CheckpointError(
            f"{file}: {name} wants more than an image and a timestep ({more}); finf has no more to give"
        )
    if config.get("quantization_config") is not None:
        raise CheckpointError(f"{file}: quantized weights; finf wants them as plain floats")
    return found


def _check_shapes(
    folder: Path, network_class: Any, config: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> None:
    """Compare with the network of this config before memory is taken; names of older versions are known to the library.

    Raises:
        CheckpointError: another shape or no floats, or more layers than the weights could hold.
    """
    for key, value in config.items():
        if "layers" in key and isinstance(value, int) and value > len(stored):
            raise CheckpointError(f"{folder / CONFIG}: {key} = {value:,}, and the weights hold {len(stored):,} tensors")
    with torch.device("meta"):
        wanted = network_class.from_config(dict(config)).state_dict()
    for name, tensor in stored.items():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(f"{tensor.file}: tensor {name!r} has dtype {tensor.dtype}, not one of floats")
        if name in wanted and tensor.shape != tuple(wanted[name].shape):
            shape = tuple(wanted[name].shape)
            raise CheckpointError(f"{tensor.file}: tensor {name!r} has shape {tensor.shape}, the network wants {shape}")


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
