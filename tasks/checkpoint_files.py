"""The files of a checkpoint from strangers, looked at before a library opens them.

No code of it runs, nothing of it is unpickled, and no file outside its folder is read: what would lead there is refused
by name. (Files may be links: the hub's own cache is made of them.)
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finf_core.errors import CheckpointError, FinfError
from tasks.safetensors_header import FLOATS, StoredTensor, read_header

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer_config.json", "model.safetensors"
ADAPTER = "adapter_config.json"
MAX_JSON_BYTES = 256 * 2**20  # the largest tokenizers of today are 35 MB
SMALL_FLOATS = ("F8", "F6", "F4")  # they mean nothing without the scales of a quantizer
CODE = "auto_map"  # names a class in a Python file of the folder


def check_files(folder: Path) -> None:
    """Refuse what would have the library run code, or read what lies outside the folder.

    Raises:
        CheckpointError: names the file.
    """
    for file in sorted(folder.iterdir()):
        if file.exists() and not file.is_file() and not file.is_dir():
            raise CheckpointError(f"{file}: is no plain file")
        if file.suffix == ".json" and file.exists() and file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{file}: is larger than {MAX_JSON_BYTES:,} bytes")
    if (folder / ADAPTER).exists():
        raise CheckpointError(f"{folder / ADAPTER}: an adapter; merge it into its base model and save that as a folder")
    for name in (CONFIG, TOKENIZER):
        if (folder / name).exists() and CODE in read_json(folder / name):
            raise CheckpointError(
                f"{folder / name}: {CODE} names code, and finf runs no code from a checkpoint; "
                f"if transformers knows the model by itself, remove {CODE}"
            )


def read_tensors(folder: Path, weights: str = WEIGHTS) -> dict[str, StoredTensor]:
    """What the weights hold, by name, from the headers of the files that transformers (or diffusers) reads.

    Args:
        weights: the file that holds them, or whose index names those that do.

    Raises:
        CheckpointError: a broken header or index, or an index that leaves the folder.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(folder, weights):
        tensors |= read_header(file)
    return tensors


def check_tensors(tensors: Mapping[str, StoredTensor], config: "PretrainedConfig") -> None:
    """Compare what is stored with what the model of this config holds; nothing is loaded, nor memory taken.

    Raises:
        CheckpointError: a tensor of another shape, or one without floats where the model has floats; quantized weights.
    """
    import transformers

    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(f"{config.name_or_path}/{CONFIG}: quantized weights; finf wants them as plain floats")
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > len(tensors):
        raise CheckpointError(
            f"{config.name_or_path}/{CONFIG}: {layers:,} layers, and the weights hold {len(tensors):,} tensors"
        )
    with torch.device("meta"):
        model: Any = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    wanted = model.state_dict()
    for name, stored in tensors.items():
        known = wanted.get(name, wanted.get(f"{model.base_model_prefix}.{name}"))
        if known is not None and stored.shape != tuple(known.shape):
            raise _wrong(name, stored, f"shape {stored.shape}", f"{tuple(known.shape)}")
        is_for_floats = stored.dtype.startswith(SMALL_FLOATS) or (known is not None and known.is_floating_point())
        if is_for_floats and stored.dtype not in FLOATS:
            raise _wrong(name, stored, f"dtype {stored.dtype}", f"one of {', '.join(FLOATS)}")


def check_weights(model: torch.nn.Module, tensors: Mapping[str, StoredTensor], path: str) -> None:
    """Raises CheckpointError: a weight is infinite or no number; every loss would be no number then."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            file = tensors[name].file if name in tensors else path
            raise CheckpointError(f"{file}: tensor {name!r} holds NaN or infinity: every loss would be NaN")


@contextmanager
def library_errors(path: str) -> Iterator[None]:
    """Whatever a library raises over a checkpoint is a CheckpointError of one line.

    `tokenizers` raises bare `Exception`, and a panic of Rust code is a `BaseException`.
    """
    try:
        yield
    except FinfError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path}: cannot be loaded: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _weight_files(folder: Path, weights: str) -> list[Path]:
    if (folder / weights).exists():
        return [folder / weights]
    index = folder / f"{weights}.index.json"
    if not index.exists():
        raise CheckpointError(f"{folder}: want {weights}, or {index.name} and the files that it names")
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise CheckpointError(f"{index}: has no weight_map")
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{index}: names {name!r}, which is no file of this folder")
    return sorted({folder / name for name in names.values()})


def read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: is no JSON ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: is no JSON object")
    return found


def _wrong(name: str, stored: StoredTensor, got: str, wanted: str) -> CheckpointError:
    return CheckpointError(f"{stored.file}: tensor {name!r} has {got}, and the model wants {wanted}")
