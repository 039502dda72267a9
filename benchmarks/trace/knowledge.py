"""What a model knows of a fact: its loss on the tail after the head's name, beside that after other names.

Name suffixes: F facts, N prompts of a fact (the first is its own).
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.trace.facts import PROMPTS, Fact
from finf_core.batches import plan_batches
from finf_core.scores import Floats
from finf_core.spec import ModelSpec
from tasks.encode import encode_query
from tasks.loaded_model import TextModel
from tasks.queries import Query

NUM_OTHERS = 8  # heads, or tails, of the same relation
LEAST_GAIN_NATS = 1.0  # of the whole tail, over the mean of the others


def known_facts(
    model: TextModel, spec: ModelSpec, facts: Sequence[Fact], seed: int
) -> tuple[list[Fact], dict[str, Any]]:
    """Facts whose tail costs less after their own head than after each of `NUM_OTHERS` others, and clearly so; and how
    much the model knows in all."""
    rng, by_relation = random.Random(seed), defaultdict(list)
    for fact in facts:
        by_relation[fact.relation].append(fact)
    others = [_draw(rng, by_relation[fact.relation], fact) for fact in facts]
    heads = [
        [(fact.prompt, fact.target), *((_prompt(fact, other.head), fact.target) for other in of)]
        for fact, of in zip(facts, others, strict=True)
    ]
    tails = [
        [(fact.prompt, fact.target), *((fact.prompt, other.target) for other in of)]
        for fact, of in zip(facts, others, strict=True)
    ]
    by_head_FN, by_tail_FN = (_nats(model, spec, pairs) for pairs in (heads, tails))
    own_FN = _nats(model, spec, [_in_sentence(fact, of) for fact, of in zip(facts, others, strict=True)])
    gain_F = by_head_FN[:, 1:].mean(axis=1) - by_head_FN[:, 0]
    knows_F = (by_head_FN[:, :1] < by_head_FN[:, 1:]).all(axis=1) & (gain_F >= LEAST_GAIN_NATS)
    is_right_F = (by_tail_FN[:, :1] < by_tail_FN[:, 1:]).all(axis=1)
    numbers = {
        "num_asked": len(facts),
        "num_known": int(knows_F.sum()),
        "tail_nats": float(by_head_FN[:, 0].mean()),
        "tail_nats_after_other_heads": float(by_head_FN[:, 1:].mean()),
        "right_of_nine_tails": float(is_right_F.mean()),
        "right_of_nine_tails_known": float(is_right_F[knows_F].mean()),
        "right_of_nine_tails_in_its_sentence": float((own_FN[:, :1] < own_FN[:, 1:]).all(axis=1).mean()),
        "tail_nats_in_its_sentence": float(own_FN[:, 0].mean()),
        "other_tails_nats_in_its_sentence": float(own_FN[:, 1:].mean()),
        "known_tail_nats": float(by_head_FN[knows_F, 0].mean()),
        "known_tail_nats_after_other_heads": float(by_head_FN[knows_F, 1:].mean()),
    }
    return [fact for fact, knows in zip(facts, knows_F, strict=True) if knows], numbers


def _in_sentence(fact: Fact, others: Sequence[Fact]) -> list[tuple[str, str]]:
    """The sentence up to the tail, then the tail or another one."""
    return [(fact.sentence_prompt, each.target) for each in (fact, *others)]


def _prompt(fact: Fact, head: str) -> str:
    return PROMPTS[fact.relation].format(head=head)


def _draw(rng: random.Random, facts: Sequence[Fact], fact: Fact) -> list[Fact]:
    """Others of the relation with another head and another tail."""
    usable = [each for each in facts if each.tail.lower() != fact.tail.lower() and each.head != fact.head]
    return rng.sample(usable, NUM_OTHERS)


@torch.inference_mode()
def _nats(model: TextModel, spec: ModelSpec, pairs: Sequence[Sequence[tuple[str, str]]]) -> Floats:
    """Loss of each target after its context, summed over its tokens."""
    windows = [encode_query(model, spec, Query("", *pair))[0] for of_fact in pairs for pair in of_fact]
    nats = np.zeros(len(windows))
    for places in plan_batches([len(window) for window in windows], model.batch_tokens):
        nats[places] = model.adapter.loss(model.adapter.collate([windows[place] for place in places])).sum_nats.numpy()
    return nats.reshape(len(pairs), -1)
