"""The Llamas that `benchmarks.gpu` scores with, of random weights, and the random rows they score."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from finf_core import CausalLM, MirroredUpdate, Window, split_into_windows
from finf_core.layers import is_linear
from finf_core.moving import moving_parameters
from finf_core.projection import LayerProjection, Projection, last_blocks

DELTA_SPREAD = 1e-4  # standard deviation of a random update; its size changes no timing
UPDATE_BYTES = 6  # of each parameter that moves: its change in float32, the moved weight in bfloat16
SPARE_BYTES = 10 << 30  # for activations, logits and the sums of one weight


@dataclass(frozen=True)
class Shape:
    config: dict[str, Any]  # of LlamaConfig
    num_rows: int
    row_tokens: tuple[int, int] = (64, 2048)  # shortest and longest row; lengths are log-uniform between them
    batch_tokens: int = 16384  # padded tokens in one forward pass
    adjoint_tokens: int = 4096  # the same for the one pass for all queries, which keeps what every layer saw
    bare_chunk_tokens: int = 2048  # whose logits the bare loop holds at once
    ceiling_sizes: tuple[int, ...] = (4096, 8192, 16384)
    goal: float | None = None  # least share of the ceiling


SHAPES = {
    "160M": Shape(
        {"vocab_size": 50_304, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
        | {"num_attention_heads": 12, "tie_word_embeddings": False},
        num_rows=2048,
    ),
    "1B": Shape(  # of Llama 3.2 1B
        {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
        | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True},
        num_rows=1024,
        goal=0.5,
    ),
    "7B": Shape(  # of Llama 2 7B
        {"vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32}
        | {"num_attention_heads": 32, "tie_word_embeddings": False},
        num_rows=256,
        adjoint_tokens=2048,
        goal=0.6,
    ),
    "tiny": Shape(
        {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2}
        | {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
        num_rows=48,
        row_tokens=(16, 128),
        batch_tokens=1024,
        adjoint_tokens=1024,
        ceiling_sizes=(256, 512),
    ),
}


def random_model(shape: Shape, device: str, compiled: bool = False) -> CausalLM:
    """Weights are drawn on the device itself, in the dtype they are scored in."""
    torch.manual_seed(0)
    config = LlamaConfig(max_position_embeddings=shape.row_tokens[1], **shape.config)
    with torch.device(device):
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return CausalLM(model, compiled)


def random_rows(shape: Shape) -> list[list[Window]]:
    rng = np.random.default_rng(0)
    shortest, longest = np.log(shape.row_tokens)
    lengths = np.exp(rng.uniform(shortest, longest, shape.num_rows)).astype(int)
    rows = [rng.integers(0, shape.config["vocab_size"], length + 1) for length in lengths]
    return [split_into_windows(row, shape.row_tokens[1], 0) for row in rows]


def random_update(adapter: CausalLM, moves: str) -> MirroredUpdate:
    parameters = moving_parameters(adapter.module, moves)
    deltas = {name: DELTA_SPREAD * torch.randn_like(weight, dtype=torch.float32) for name, weight in parameters.items()}
    return MirroredUpdate(deltas, "ascent", "forward", base_nats=1.0, num_targets=100, moved_nats=0.1, step_size=1.0)


def random_projection(adapter: CausalLM, num_queries: int, rank: int) -> Projection:
    """Random directions and cores for the blocks that a scan looks at by default; what they hold changes no timing."""

    def part(layer: nn.Module) -> LayerProjection:
        weight_OI = layer.get_parameter("weight")
        sizes = [(side, min(rank, side)) for side in weight_OI.shape]
        directions = [torch.randn(size, device=weight_OI.device) / size[0] ** 0.5 for size in sizes]
        cores_QKJ = DELTA_SPREAD * torch.randn(num_queries, sizes[0][1], sizes[1][1], device=weight_OI.device)
        return LayerProjection(directions[0], directions[1], cores_QKJ)

    inside = {name: layer for name, layer in adapter.module.named_modules() if is_linear(layer)}
    layers = {name: layer for name, layer in inside.items() if layer is not adapter.head}
    return Projection({name: part(layer) for name, layer in last_blocks(adapter.module, layers, None).items()})


def what_can_move(adapter: CausalLM) -> str:
    """All parameters where the device can hold an update of them and the moved weights, else the last block."""
    if adapter.head.weight.device.type == "cpu":
        return "all"
    num_parameters = sum(parameter.numel() for parameter in adapter.module.parameters())
    return "all" if num_parameters * UPDATE_BYTES + SPARE_BYTES < torch.cuda.mem_get_info()[0] else "last:1"
