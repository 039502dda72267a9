"""Head and loss of one batch on one GPU: ways to get there, their time and their error against float64.

Random hidden states and a random head in bfloat16, in the shapes of `benchmarks.gpu`; half of the labels are the head's
own first choice. `finf` is `finf_core.losses` (logits in float32, compiled passes), `by hand` the plain torch way with
logits in bfloat16; `cut-cross-entropy` is measured where it is installed. Backward: the gradient of the hidden states,
the head frozen. Errors are of the loss, in nats (forward), or relative to the gradient's norm (backward).

python -m benchmarks.gpu_head [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_shapes import SHAPES
from finf_core.losses import chunked_example_loss

NUM_TARGETS, REPEATS = 16384, 5
CHECKED = 256  # of the first and of the last targets
LOGIT_SPREAD = 3.0  # standard deviation

Way = Callable[[Tensor, Tensor], Tensor]  # hidden states (N, D) and labels (N,) to nats (N,)


def ways(head: nn.Linear) -> dict[str, Way]:
    num_vocabulary = len(head.weight)

    def finf(compiled: bool) -> Way:
        def nats(hidden_ND: Tensor, labels_N: Tensor) -> Tensor:
            loss = chunked_example_loss(hidden_ND[None], head, num_vocabulary, labels_N[None], compiled=compiled)
            return loss.target_nats if loss.target_nats is not None else loss.sum_nats

        return nats

    def by_hand(hidden_ND: Tensor, labels_N: Tensor) -> Tensor:
        size = 1024
        chunks = zip(hidden_ND.split(size), labels_N.split(size), strict=True)
        return torch.cat([F.cross_entropy(head(hidden).float(), labels, reduction="none") for hidden, labels in chunks])

    found = {"by hand": by_hand, "finf, not compiled": finf(False), "finf": finf(True)}
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError:
        return found
    return found | {"cut-cross-entropy": lambda h, y: linear_cross_entropy(h, head.weight, y, reduction="none")}


def measure(num_vocabulary: int, num_hidden: int) -> dict[str, Any]:
    torch.manual_seed(0)
    hidden_ND = torch.randn(NUM_TARGETS, num_hidden, device="cuda", dtype=torch.bfloat16)
    head = nn.Linear(num_hidden, num_vocabulary, bias=False, device="cuda", dtype=torch.bfloat16).requires_grad_(False)
    head.weight.normal_(std=LOGIT_SPREAD / num_hidden**0.5)
    labels_N = torch.randint(num_vocabulary, (NUM_TARGETS,), device="cuda")
    half = NUM_TARGETS // 2
    labels_N[:half] = torch.cat([head(hidden).argmax(-1) for hidden in hidden_ND[:half].split(1024)])
    checked = torch.cat([torch.arange(CHECKED), torch.arange(NUM_TARGETS - CHECKED, NUM_TARGETS)]).cuda()
    exact_ND = hidden_ND[checked].double().requires_grad_()
    exact_N = F.cross_entropy(exact_ND @ head.weight.double().T, labels_N[checked], reduction="none")
    [slopes_ND] = torch.autograd.grad(exact_N.sum(), exact_ND)
    found = {}
    for name, way in ways(head).items():

        def forward(way: Way = way) -> Tensor:
            with torch.inference_mode():
                return way(hidden_ND, labels_N)

        def backward(way: Way = way) -> Tensor:
            leaf_ND = hidden_ND.clone().requires_grad_()
            return torch.autograd.grad(way(leaf_ND, labels_N).sum(), leaf_ND)[0]

        nats_N, gradient_ND = forward()[checked].double(), backward()[checked].double()
        found[name] = {
            "forward_ms": 1000 * seconds(forward),
            "rms_error_nats": float((nats_N - exact_N).square().mean().sqrt()),
            "with_gradient_ms": 1000 * seconds(backward),
            "gradient_error": float((gradient_ND - slopes_ND).norm() / slopes_ND.norm()),
        }
    found["the product alone"] = {"forward_ms": 1000 * seconds(lambda: [head(part) for part in hidden_ND.split(4096)])}
    return found


def seconds(run: Callable[[], object]) -> float:
    run()
    taken = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU: nothing measured")
        return
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    for name in ("160M", "1B", "7B"):
        config = SHAPES[name].config
        found[name] = measure(config["vocab_size"], config["hidden_size"])
        for way, figures in found[name].items():
            print(f"{name} {way:20}", "  ".join(f"{key} {value:.3g}" for key, value in figures.items()))
        torch.cuda.empty_cache()
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
