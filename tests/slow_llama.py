"""A Llama done again, slowly: float64, one position and one head at a time.

It shares no code with `finf_core` nor with transformers: it reads `config.json` and `model.safetensors` and follows the
formulas. torch holds the float64 vectors and knows the chain rule, nothing more.
Name suffixes: D hidden units, I inputs and O outputs of a layer.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

Vectors = list[Tensor]  # one per position
Tape = dict[str, list[tuple[Tensor, Tensor]]]  # linear layer -> its input and its output, position by position
Deltas = Mapping[str, Tensor]


@dataclass(frozen=True)
class SlowLlama:
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]  # float64, each a leaf that gradients can be taken for


def read_llama(folder: Path) -> SlowLlama:
    stored = load_file(folder / "model.safetensors")
    weights = {name: tensor.double().requires_grad_() for name, tensor in stored.items()}
    return SlowLlama(json.loads((folder / "config.json").read_text()), weights)


def moved_by(llama: SlowLlama, deltas: Deltas, scale: float = 1.0) -> SlowLlama:
    """Another model, at θ + scale·Δ."""
    changed = {
        name: (weight.detach() + scale * deltas[name]).requires_grad_() if name in deltas else weight
        for name, weight in llama.weights.items()
    }
    return replace(llama, weights=changed)


def logits(llama: SlowLlama, tokens: Sequence[int], tape: Tape | None = None) -> Vectors:
    """(V,) for each position. Touvron et al. 2023, arXiv:2302.13971: pre-norm, RoPE, SwiGLU, no biases."""
    tape = {} if tape is None else tape
    embeddings = llama.weights["model.embed_tokens.weight"]
    states = [embeddings[token] for token in tokens]
    for block in range(llama.config["num_hidden_layers"]):
        name = f"model.layers.{block}"
        normed = [_rms_norm(llama, f"{name}.input_layernorm", state) for state in states]
        states = [s + a for s, a in zip(states, _attention(llama, f"{name}.self_attn", normed, tape), strict=True)]
        normed = [_rms_norm(llama, f"{name}.post_attention_layernorm", state) for state in states]
        states = [s + _feed_forward(llama, f"{name}.mlp", n, tape) for s, n in zip(states, normed, strict=True)]
    head_VD = embeddings if llama.config["tie_word_embeddings"] else llama.weights["lm_head.weight"]
    return [head_VD @ _rms_norm(llama, "model.norm", state) for state in states]


def _rms_norm(llama: SlowLlama, name: str, x_D: Tensor) -> Tensor:
    mean_square = (x_D * x_D).sum() / len(x_D)
    scale = float(llama.config["rms_norm_eps"]) + mean_square
    return llama.weights[f"{name}.weight"] * x_D / scale.sqrt()


def _linear(llama: SlowLlama, name: str, x_I: Tensor, tape: Tape) -> Tensor:
    y_O = llama.weights[f"{name}.weight"] @ x_I
    tape.setdefault(name, []).append((x_I, y_O))
    return y_O


def _feed_forward(llama: SlowLlama, name: str, x_D: Tensor, tape: Tape) -> Tensor:
    gate, up = _linear(llama, f"{name}.gate_proj", x_D, tape), _linear(llama, f"{name}.up_proj", x_D, tape)
    return _linear(llama, f"{name}.down_proj", gate / (1 + (-gate).exp()) * up, tape)


def _attention(llama: SlowLlama, name: str, inputs: Vectors, tape: Tape) -> Vectors:
    num_heads, num_shared = llama.config["num_attention_heads"], llama.config["num_key_value_heads"]
    queries, keys, values = [
        [_linear(llama, f"{name}.{part}_proj", x, tape).view(count, -1) for x in inputs]
        for part, count in (("q", num_heads), ("k", num_shared), ("v", num_shared))
    ]
    theta = _rope_theta(llama.config)
    turned = [[_rotate(key[shared], there, theta) for there, key in enumerate(keys)] for shared in range(num_shared)]
    outputs = []
    for here, query in enumerate(queries):
        heads = []
        for head in range(num_heads):
            shared = head // (num_heads // num_shared)  # neighbouring query heads share a key-value head
            wanted = _rotate(query[head], here, theta) / math.sqrt(query.shape[1])
            fits = torch.stack(turned[shared][: here + 1]) @ wanted
            weights = (fits - fits.max()).exp()
            seen = torch.stack([value[shared] for value in values[: here + 1]])
            heads.append(weights @ seen / weights.sum())
        outputs.append(_linear(llama, f"{name}.o_proj", torch.cat(heads), tape))
    return outputs


def _rope_theta(config: Mapping[str, Any]) -> float:
    return float(config["rope_theta"] if "rope_theta" in config else config["rope_parameters"]["rope_theta"])


def _rotate(x: Tensor, position: int, theta: float) -> Tensor:
    """Su et al. 2021, arXiv:2104.09864, with the pairs (i, i + half) that Llama checkpoints are stored for."""
    half = len(x) // 2
    cos, sin = _turn(position, half, theta)
    return torch.cat([x[:half] * cos - x[half:] * sin, x[half:] * cos + x[:half] * sin])


@cache
def _turn(position: int, half: int, theta: float) -> tuple[Tensor, Tensor]:
    angles = [position * theta ** (-i / half) for i in range(half)]
    cos, sin = [math.cos(a) for a in angles], [math.sin(a) for a in angles]
    return torch.tensor(cos, dtype=torch.float64), torch.tensor(sin, dtype=torch.float64)
