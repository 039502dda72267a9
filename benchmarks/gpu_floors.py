"""What a scoring pass would cost a GPU at least: operations, bytes and kernels, counted on shapes; nothing is measured.

The models of `benchmarks.gpu` are run on the meta device, where a tensor has a shape and no memory, and every kernel
that the eager model would start is noted: its operations if it is a matrix product, else the bytes that it reads and
writes. Attention stands for one fused kernel that reads queries, keys and values once; it counts half, as it is causal.

The loss is taken in chunks. For each chunk size: what its logits take in memory, and the head's seconds, which are the
operations or, for a small chunk, the reading of the head's whole weight once a chunk, whichever is slower.

Seconds assume a card (defaults: data sheet of an H100 SXM, dense bfloat16) that reaches `--reached` of its operations
in large products and of its bandwidth elsewhere, products and other kernels one after the other. They are projections.

python -m benchmarks.gpu_floors [--tflops 989] [--terabytes 3.35] [--reached 0.75] [--json]
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, AutoModelForCausalLM, LlamaConfig

from benchmarks.gpu_shapes import SHAPES, Shape

ROWS, TOKENS = 8, 2048  # of the batch that is counted
# operations that start no kernel
FREE = ("view", "transpose", "slice", "unsqueeze", "expand", "split", "_unsafe_view", "empty", "t.", "detach")
PRODUCTS = ("mm", "addmm", "bmm")
FLASH = "one_fused_kernel"  # name of the attention that stands for a fused one
LOGIT_BYTES = 20  # in bfloat16 written and read; in float32 written, read twice by the softmax, written by it
LOGIT_BYTES_HELD = 10  # in bfloat16, in float32, and its softmax
CHUNKS = (1 << 21, 1 << 24, 1 << 26, 1 << 27, 1 << 28, 1 << 29)  # logits at once; the first is `CHUNK_LOGITS` of a CPU


@dataclass(frozen=True)
class Card:
    flop_per_second: float  # in a large product
    bytes_per_second: float


class KernelCounter(TorchDispatchMode):
    """Kernels, and the bytes that those read and write which are no matrix products."""

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = str(func).removeprefix("aten.")
        if not name.startswith(FREE):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, output)) if isinstance(leaf, Tensor)]
            if name.startswith("embedding"):
                tensors = tensors[1:]  # of the table only the rows looked up
            self.counts["kernels"] += 1
            self.counts["bytes"] += 0 if name.startswith(PRODUCTS) else sum(map(_num_bytes, tensors))
        return output


def _num_bytes(tensor: Tensor) -> int:
    """What lies in memory: a dimension that is only expanded is not there twice."""
    numel = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numel *= size if stride else 1
    return numel * tensor.element_size()


def fused(_: nn.Module, query: Tensor, key: Tensor, value: Tensor, *__: object, **___: object) -> tuple[Tensor, None]:
    """A kernel with the traffic of fused attention (grouped keys and values are smaller: so it is a bound)."""
    return (query + 0).transpose(1, 2), None


def count(shape: Shape) -> dict[str, Any]:
    """For one token of the counted batch."""
    AttentionInterface.register(FLASH, fused)
    config = LlamaConfig(max_position_embeddings=TOKENS, **shape.config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=FLASH).eval()
        ids_BT = torch.zeros(ROWS, TOKENS, dtype=torch.int64)
    kernels: KernelCounter = KernelCounter()  # type: ignore[no-untyped-call]
    with FlopCounterMode(display=False) as flop, kernels, torch.no_grad():
        model.base_model(input_ids=ids_BT, use_cache=False)
    num_tokens = ids_BT.numel()
    return {
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flop": {
            "layers": flop.get_total_flops() / num_tokens,
            "attention": 4 * TOKENS * config.hidden_size * config.num_hidden_layers / 2,
            "head": 2 * config.hidden_size * config.vocab_size,
        },
        "elementwise_bytes": kernels.counts["bytes"] / num_tokens,
        "logit_bytes": LOGIT_BYTES * config.vocab_size,
        "kernels_per_batch": kernels.counts["kernels"],
        "weight_bytes": sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        "vocabulary": config.vocab_size,
        "hidden": config.hidden_size,
    }


def project(counted: dict[str, Any], card: Card) -> dict[str, Any]:
    """Seconds of a batch of `ROWS` x `TOKENS` for each way to chunk, and the share of the ceiling that is left."""
    num_tokens = ROWS * TOKENS
    flop = counted["flop"]
    trunk = flop["layers"] + flop["attention"]
    trunk_seconds = num_tokens * (trunk / card.flop_per_second + counted["elementwise_bytes"] / card.bytes_per_second)
    ideal_seconds = num_tokens * sum(flop.values()) / card.flop_per_second
    rows = []
    for logits in CHUNKS:
        loss_seconds = head_seconds(counted["vocabulary"], counted["hidden"], logits, num_tokens, card)
        loss_seconds += num_tokens * counted["logit_bytes"] / card.bytes_per_second
        rows.append(
            {
                "chunk_logits": logits,
                "chunk_tokens": max(1, logits // counted["vocabulary"]),
                "held_gib": min(logits, num_tokens * counted["vocabulary"]) * LOGIT_BYTES_HELD / 2**30,
                "loss_seconds": loss_seconds,
                "tokens_per_second": num_tokens / (trunk_seconds + loss_seconds),
                "ceiling_share": ideal_seconds / (trunk_seconds + loss_seconds),
            }
        )
    return {"trunk_seconds": trunk_seconds, "chunks": rows}


def head_seconds(num_vocabulary: int, num_hidden: int, chunk_logits: int, num_tokens: int, card: Card) -> float:
    chunk = min(num_tokens, max(1, chunk_logits // num_vocabulary))
    flop = 2 * chunk * num_hidden * num_vocabulary
    num_bytes = 2 * (num_vocabulary * num_hidden + chunk * num_hidden + chunk * num_vocabulary)
    return num_tokens / chunk * max(flop / card.flop_per_second, num_bytes / card.bytes_per_second)


def render(name: str, found: dict[str, Any]) -> str:
    parts = ", ".join(f"{part} {flop / 1e9:.3f}" for part, flop in found["flop"].items())
    lines = [
        f"{name}: {found['num_parameters']:,} parameters; kernels before the head: {found['kernels_per_batch']:,}",
        f"  GFLOP a token: {parts}",
        f"  kB a token: elementwise {found['elementwise_bytes'] / 1e3:,.0f}, logits {found['logit_bytes'] / 1e3:,.0f}",
        "  logits at once = tokens      GiB   tokens/s  of the ceiling",
    ]
    for row in found["chunks"]:
        chunk = f"{row['chunk_logits']:13,}   {row['chunk_tokens']:6,}   {row['held_gib']:6.2f}"
        lines.append(f"  {chunk}   {row['tokens_per_second']:8,.0f}  {row['ceiling_share']:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=989)
    parser.add_argument("--terabytes", type=float, default=3.35)
    parser.add_argument("--reached", type=float, default=0.75)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    card = Card(arguments.reached * arguments.tflops * 1e12, arguments.reached * arguments.terabytes * 1e12)
    found = {}
    for name in SHAPES:
        if name != "tiny":
            counted = count(SHAPES[name])
            found[name] = counted | project(counted, card)
            print(render(name, found[name]))
    print("Counted on shapes and projected for a card; nothing was measured.")
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
