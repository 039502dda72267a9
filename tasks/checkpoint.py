"""Checkpoints: a Hugging Face folder with safetensors, local, remote or in the hub's cache.

Nothing is unpickled and no code from a checkpoint runs: weights come from safetensors only. A chat template is a
program too; it runs where there are chats, in Jinja's sandbox (`tasks.chat_template`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from finf_core.causal_lm import CausalLM
from finf_core.chat import Chat
from finf_core.errors import CheckpointError
from finf_core.fingerprint import digest_chunks, fingerprint, short
from finf_core.spec import ModelSpec, ScanSpec
from tasks import storage
from tasks.chat_template import TokenizerChat, chat_of
from tasks.checkpoint_files import check_files, check_tensors, check_weights, first_line, library_errors, read_tensors
from tasks.loaded_model import TextModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS, PICKLES = "*.safetensors", ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
DESCRIBED_BY = (WEIGHTS, "*.json", "*.txt", "*.model", "*.jinja")  # what a digest covers
FROM_DISK = {"local_files_only": True, "trust_remote_code": False}  # False, not None: None asks on the terminal
READ_BYTES = 1 << 22
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}  # on a CPU a small batch stays in its cache and holds little padding


def local_checkpoint(path: str) -> Path:
    """The checkpoint's folder on this machine, looked at: `local_folder`, `check_folder`.

    Raises:
        CheckpointError: no folder, or no safetensors in it (pickled weights are refused by name), or code.
    """
    folder = local_folder(path)
    check_folder(folder, path)
    return folder


def local_folder(path: str) -> Path:
    """A folder on this machine; a remote one is copied once, a hub id comes from the hub or its cache.

    Raises:
        CheckpointError: there is none.
    """
    if "://" not in path:
        return Path(path) if Path(path).is_dir() else _from_hub(path)
    folder = Path.home() / ".cache" / "finf" / "checkpoints" / short(_remote_stamp(path))
    if not folder.exists():
        storage.download_folder(path, folder)
    return folder


def check_folder(folder: Path, path: str) -> None:
    """Raises CheckpointError: no safetensors (pickled weights are refused by name), or what would lead to code."""
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if not any(folder.glob(WEIGHTS)):
        refused = f"{pickles[0]} is pickled and could run code; save it as safetensors" if pickles else "none found"
        raise CheckpointError(f"{path}: want weights in *.safetensors: {refused}")
    check_files(folder)


def digest_checkpoint(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that decide the model's behaviour."""
    files = sorted({file for pattern in DESCRIBED_BY for file in folder.glob(pattern)})
    return fingerprint({file.name: digest_chunks(_chunks(file)) for file in files})


def load_language_model(spec: ModelSpec, batch_tokens: int | None = None, compiled: bool | None = None) -> TextModel:
    """Load model and tokenizer on the GPU if there is one, refusing whatever would score silently wrong.

    Args:
        batch_tokens: padded tokens in one forward pass; None: what suits the device.
        compiled: whether to run compiled kernels (`finf_core.kernels`); None: on a GPU, where they pay.

    Raises:
        CheckpointError: unreadable or incomplete weights, or a tokenizer that does not fit the model.
    """
    import transformers  # seconds; a run served from cache never needs it

    transformers.utils.logging.disable_progress_bar()  # the run has a bar of its own
    transformers.utils.logging.set_verbosity_error()  # what is missing is refused below
    folder = local_checkpoint(spec.path)
    tensors = read_tensors(folder)
    with library_errors(spec.path):
        config = transformers.AutoConfig.from_pretrained(folder, **FROM_DISK)
        check_tensors(tensors, config)
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, spec.dtype), use_safetensors=True, output_loading_info=True, **FROM_DISK
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **FROM_DISK)
    model, info = loaded
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise CheckpointError(
            f"{spec.path}: {len(missing)} weights are missing or misshapen, the first is {missing[0]}"
        )
    check_weights(model, tensors, spec.path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    adapter = CausalLM(model.to(device), device == "cuda" if compiled is None else compiled)
    _check_tokenizer(tokenizer, adapter, spec.path)
    context_tokens, chat = _context_tokens(spec, adapter), chat_of(spec.chat_template, tokenizer)
    return TextModel(
        adapter=adapter,
        batch_tokens=batch_tokens or BATCH_TOKENS[device],
        context_tokens=context_tokens,
        tokenizer=tokenizer,
        chat=chat,
    )


def load_chat(spec: ScanSpec) -> Chat | None:
    """How the chats of corpus and queries become text; None where there are none. The model is not loaded for it.

    Raises:
        InputError: the tokenizer has no chat template, or one that does not mark what `corpus.loss_on` wants marked.
        CheckpointError: an unreadable tokenizer.
    """
    if spec.corpus.messages_column is None and spec.queries.messages_column is None:
        return None
    import transformers

    folder = local_checkpoint(spec.model.path)
    with library_errors(spec.model.path):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **FROM_DISK)
    chat = chat_of(spec.model.chat_template, tokenizer)
    if isinstance(chat, TokenizerChat):
        chat.check(spec.corpus.loss_on)
    return chat


def _check_tokenizer(tokenizer: "PreTrainedTokenizerBase", adapter: CausalLM, path: str) -> None:
    if not tokenizer.is_fast:
        raise CheckpointError(f"{path}: want a fast tokenizer (tokenizer.json); loss masks need character offsets")
    if len(tokenizer) > adapter.num_vocabulary:
        raise CheckpointError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, the model {adapter.num_vocabulary}: they do not match"
        )


def _context_tokens(spec: ModelSpec, adapter: CausalLM) -> int:
    longest = adapter.max_context_tokens
    if spec.context_tokens is None and longest is None:
        raise CheckpointError(f"{spec.path}: the config names no maximum length; set model.context_tokens")
    if spec.context_tokens is not None and longest is not None and spec.context_tokens > longest:
        raise CheckpointError(f"model.context_tokens = {spec.context_tokens}, but {spec.path} was built for {longest}")
    return spec.context_tokens or longest or 0


def _from_hub(path: str) -> Path:
    try:
        return Path(snapshot_download(path, allow_patterns=list(DESCRIBED_BY)))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{path}: no such folder, and not in the hub's cache ({first_line(error)})") from error


def _remote_stamp(path: str) -> str:
    objects = storage.list_objects(storage.join(path, "*"))
    return fingerprint([[item.uri, item.size_bytes, item.etag] for item in objects])


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(READ_BYTES):
            yield chunk
