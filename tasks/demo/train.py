"""A small Llama-shaped causal language model, trained from random weights on the demo corpus in about a minute.

It is meant to memorise: a large learning rate, small batches, several epochs, no weight decay, no dropout. What
it saves is an ordinary Hugging Face directory: safetensors and tokenizer.

Name suffixes say the shape: B rows, T token positions.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from finf_core.errors import InputError
from finf_core.losses import IGNORE_INDEX

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"

Progress = Callable[[float, str], None]  # share done in 0..1, and one line for people


@dataclass(frozen=True)
class TrainSettings:
    """The model and its training; with the defaults 120k tokens take about a minute on two quiet cores."""

    vocab_size: int = 2048
    hidden_size: int = 128
    intermediate_size: int = 344
    num_layers: int = 3
    num_heads: int = 4
    initial_spread: float = 0.08  # standard deviation of the random weights; 0.02 memorises far less per epoch
    max_row_tokens: int = 1024
    num_epochs: int = 8
    batch_tokens: int = 1024  # padding included
    learning_rate: float = 3e-3  # at its peak
    warmup_share: float = 0.05
    max_gradient_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_epochs < 1:
            raise InputError(f"num_epochs is {self.num_epochs}: train for at least one epoch")


@dataclass(frozen=True)
class TrainResult:
    folder: Path
    num_parameters: int
    num_tokens: int  # of the corpus, BOS and EOS included
    num_steps: int
    seconds: float
    last_epoch_nats: float  # mean training loss per target over the last epoch


def train_model(
    texts: Sequence[str], folder: Path, settings: TrainSettings, progress: Progress, device: str = "cpu"
) -> TrainResult:
    """Train a tokenizer and a model on `texts`, each a row of its own, and save both into `folder`.

    Raises:
        InputError: no texts, or a row longer than `max_row_tokens`.
    """
    started = time.monotonic()
    tokenizer = train_tokenizer(texts, settings.vocab_size)
    rows = _encode(tokenizer, texts, settings.max_row_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = LlamaForCausalLM(_model_config(tokenizer, settings))
    torch.nn.Module.to(model, device)  # in place; transformers wraps its own `to` beyond what mypy can read
    num_steps, last_epoch_nats = _optimise(model, rows, settings, progress)
    tokenizer.save_pretrained(folder)
    with _no_progress_bars():
        model.eval().save_pretrained(folder)
    return TrainResult(
        folder=folder,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_tokens=sum(len(row) for row in rows),
        num_steps=num_steps,
        seconds=time.monotonic() - started,
        last_epoch_nats=last_epoch_nats,
    )


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE: it spells any text, and puts a BOS token in front unless told not to."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, split_special_tokens=True
    )


def _encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], max_row_tokens: int) -> list[Tensor]:
    if not texts:
        raise InputError("the demo corpus is empty: there is nothing to train on")
    rows = [torch.tensor([*ids, tokenizer.eos_token_id]) for ids in tokenizer(list(texts))["input_ids"]]
    for number, row in enumerate(rows):
        if len(row) > max_row_tokens:
            raise InputError(f"row {number} has {len(row)} tokens: raise max_row_tokens from {max_row_tokens}")
    return rows


def _model_config(tokenizer: PreTrainedTokenizerFast, settings: TrainSettings) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        max_position_embeddings=settings.max_row_tokens,
        initializer_range=settings.initial_spread,
        tie_word_embeddings=True,
        use_cache=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _optimise(
    model: LlamaForCausalLM, rows: Sequence[Tensor], settings: TrainSettings, progress: Progress
) -> tuple[int, float]:
    """Run every epoch; return the number of steps and the mean loss of the last epoch in nats per target."""
    rng = random.Random(settings.seed)
    epochs = [_plan_epoch(rows, settings.batch_tokens, rng) for _ in range(settings.num_epochs)]
    num_steps = sum(len(batches) for batches in epochs)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    step = 0
    for epoch, batches in enumerate(epochs, start=1):
        sum_nats, num_targets = 0.0, 0
        for batch in batches:
            step += 1
            rate = _rate_share(step / (num_steps + 1), settings.warmup_share)
            optimizer.param_groups[0]["lr"] = settings.learning_rate * rate
            targets = sum(len(rows[place]) - 1 for place in batch)
            sum_nats += targets * _train_step(model, optimizer, [rows[place] for place in batch], settings)
            num_targets += targets
        mean_nats = sum_nats / num_targets
        progress(step / num_steps, f"epoch {epoch} of {settings.num_epochs}: {mean_nats:.3f} nats per token")
    return num_steps, mean_nats


def _plan_epoch(rows: Sequence[Tensor], batch_tokens: int, rng: random.Random) -> list[list[int]]:
    """Cut the rows, sorted by length so that little is padding, into batches; both are in a drawn order."""
    order = rng.sample(range(len(rows)), len(rows))
    order.sort(key=lambda place: len(rows[place]))  # stable: equal lengths stay shuffled
    batches: list[list[int]] = [[]]
    for place in order:
        if batches[-1] and (len(batches[-1]) + 1) * len(rows[place]) > batch_tokens:
            batches.append([])
        batches[-1].append(place)
    rng.shuffle(batches)
    return batches


def _rate_share(share_done: float, warmup_share: float) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if share_done < warmup_share:
        return share_done / warmup_share
    return (1 + math.cos(math.pi * (share_done - warmup_share) / (1 - warmup_share))) / 2


def _train_step(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, rows: list[Tensor], settings: TrainSettings
) -> float:
    labels_BT = pad_sequence(rows, batch_first=True, padding_value=IGNORE_INDEX).to(model.device)
    ids_BT = labels_BT.clamp(min=0)  # padding is on the right: no real position attends to it
    loss = model(input_ids=ids_BT, labels=labels_BT).loss
    loss.backward()
    clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    were_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_enabled:
            transformers_logging.enable_progress_bar()
