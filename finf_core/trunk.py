"""The shared trunk: blocks below the moved ones are run once per batch, and their result is handed out to every query.

While a batch runs as usual, what the last trunk block returns is kept (`_recording`). For the next query the trunk's
blocks return that instead of running (`_replaying`); all else, embeddings and masks included, runs as the model's own
code says. So no modelling code is copied, and any model whose blocks are a chain will do:

    embeddings -> block 0 -> … -> block first−1 -> | kept | -> block first -> … -> norm -> head

What is handed out is safe because it was seen, not assumed: a query is served only if every parameter it moves belongs
to a module that began after the kept result was there, and the first replay must repeat the losses bit for bit (of
compiled blocks: to float32's rounding).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from finf_core.adapter import Adapter
from finf_core.differences import target_nats
from finf_core.kernels import CompiledForward
from finf_core.losses import ExampleLoss
from finf_core.moving import block_list

KEPT_BYTES = 1 << 31  # kept at once; batches beyond it run whole
COMPILED_TOLERANCE = (
    1e-5  # nats; a compiled kernel may round by where in memory its input lies. Others repeat every bit
)


@dataclass(frozen=True)
class _Kept:
    """What the blocks below `first` gave for one batch."""

    batch: Any  # held, so that no other batch gets its id
    first: int
    output: Any  # of block first − 1; None: not to be handed out
    movable: frozenset[str]  # parameters that cannot have changed it

    def serves(self, moved: frozenset[str]) -> bool:
        return self.output is not None and moved <= self.movable


class SharedTrunk:
    """An adapter (`finf_core.adapter`) that gives the very losses of the one it wraps, with the trunk run once.

    Batches are told apart by identity: pass the same objects again. Results are kept only under
    `torch.inference_mode()`: what a derivative's pass computes belongs to that pass.
    """

    def __init__(self, adapter: Adapter, most_bytes: int = KEPT_BYTES) -> None:
        self.adapter, self.module, self.most_bytes = adapter, adapter.module, most_bytes
        self.name, self.blocks = block_list(self.module)
        self.is_chain = True  # until a replay gives other losses
        self.checked: set[int] = set()  # values of `first` whose replay repeated the losses
        self.kept: dict[int, _Kept] = {}
        self.first, self.moved = 0, frozenset[str]()

    def expect(self, moving: Iterable[str]) -> None:
        """Nothing is moved yet, but these parameters will be: keep what lies below them."""
        self.first, self.moved = self._first_moved(moving), frozenset()

    def move(self, moving: Iterable[str]) -> None:
        """From now on the losses asked for are those with these parameters moved."""
        self.moved = frozenset(moving)
        self.first = self._first_moved(self.moved)

    def collate(self, examples: Sequence[Any]) -> Any:
        return self.adapter.collate(examples)

    def loss(self, batch: Any) -> ExampleLoss:
        """As the wrapped adapter's; from the kept result if there is one for this batch and these parameters."""
        kept = self.kept.get(id(batch))
        if kept is not None and kept.first <= self.first:
            return self._replay(kept) if kept.serves(self.moved) else self.adapter.loss(batch)
        if not (self.first and self.most_bytes and self.is_chain and torch.is_inference_mode_enabled()):
            return self.adapter.loss(batch)
        return self._record(batch)

    def _first_moved(self, moving: Iterable[str]) -> int:
        """The lowest block among the parameters' owners; the number of blocks if none is in a block."""
        inside = [name.removeprefix(f"{self.name}.") for name in moving if name.startswith(f"{self.name}.")]
        return min((int(name.partition(".")[0]) for name in inside), default=len(self.blocks))

    def _record(self, batch: Any) -> ExampleLoss:
        with _recording(self.module, self.blocks, self.first) as found:
            loss = self.adapter.loss(batch)
        kept = _Kept(batch, self.first, found.output, found.movable())
        self.is_chain = found.output is not None and self._repeats(kept, loss)
        self.kept.pop(id(batch), None)
        held_bytes = sum(_num_bytes(other.output) for other in self.kept.values())
        fits = held_bytes + _num_bytes(kept.output) <= self.most_bytes
        if not (fits and self.is_chain and kept.serves(self.moved)):
            kept = _Kept(batch, self.first, None, frozenset())
        self.kept[id(batch)] = kept
        return loss

    def _repeats(self, kept: _Kept, loss: ExampleLoss) -> bool:
        """Whether blocks that only hand on the kept result give the same losses: not so if they were read elsewhere."""
        if self.first in self.checked:
            return True
        self.checked.add(self.first)
        return _same(self._replay(kept), loss, COMPILED_TOLERANCE if _compiled(self.blocks) else 0.0)

    def _replay(self, kept: _Kept) -> ExampleLoss:
        with _replaying(self.blocks[: kept.first], kept.output):
            return self.adapter.loss(kept.batch)


class _Recording:
    """Which modules began, in order, and what the last block of the trunk returned."""

    def __init__(self, module: nn.Module, blocks: nn.ModuleList, first: int) -> None:
        self.module, self.trunk, self.tail = module, blocks[:first], blocks[first:]
        self.began: list[nn.Module] = []
        self.num_early = 0  # of `began`, before the trunk's end
        self.output: Any = None

    def begin(self, module: nn.Module, _: Any) -> None:
        self.began.append(module)

    def end_trunk(self, _: nn.Module, __: Any, output: Any) -> None:
        self.num_early, self.output = len(self.began), _clone(output)  # the tail may write into it

    def movable(self) -> frozenset[str]:
        """The parameters owned by modules that began after the trunk's end only; tied ones count by all owners."""
        early = {id(p) for part in self.began[: self.num_early] for p in part.parameters(recurse=False)}
        early |= {id(p) for block in self.trunk for p in block.parameters()}  # not all parts of a block may be watched
        late = {id(p) for part in self.began[self.num_early :] for p in part.parameters(recurse=False)}
        late |= {id(p) for block in self.tail for p in block.parameters()}  # also what this batch did not reach
        return frozenset(name for name, p in self.module.named_parameters() if id(p) in late - early)


@contextmanager
def _recording(module: nn.Module, blocks: nn.ModuleList, first: int) -> Iterator[_Recording]:
    found = _Recording(module, blocks, first)
    # watched inside, a compiled block would run as it is, and round otherwise than the passes that follow
    unwatched = {part for block in _compiled(blocks) for part in block.modules() if part is not block}
    hooks = [part.register_forward_pre_hook(found.begin) for part in module.modules() if part not in unwatched]
    hooks.append(blocks[first - 1].register_forward_hook(found.end_trunk))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _replaying(trunk: Iterable[nn.Module], output: Any) -> Iterator[None]:
    """The trunk's blocks return (a copy of) `output` while open; the modules and their attributes stay in place."""
    copy = _clone(output)
    own = [(block, vars(block).get("forward")) for block in trunk]
    try:
        for block, _ in own:
            vars(block)["forward"] = lambda *_, **__: copy
        yield
    finally:
        for block, forward in own:
            vars(block).pop("forward", None)
            if forward is not None:
                vars(block)["forward"] = forward


def _clone(output: Any) -> Any:
    return tree_map_only(Tensor, torch.clone, output)


def _num_bytes(output: Any) -> int:
    return sum(part.nbytes for part in tree_leaves(output) if isinstance(part, Tensor))


def _same(one: ExampleLoss, other: ExampleLoss, tolerance: float) -> bool:
    """NaN included."""
    return torch.allclose(target_nats(one), target_nats(other), rtol=0, atol=tolerance, equal_nan=True)


def _compiled(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    return [block for block in blocks if isinstance(vars(block).get("forward"), CompiledForward)]
