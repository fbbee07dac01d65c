"""Token replay: memories of texts as token ids, for an encoder that is fine-tuned session by session.

    memory = der_pp(500)
    encoder, head = Tuning().tune(encoder, texts, labels)
    remember_tokens(memory, encoder, head, texts, labels)
    encoder, head = Tuning().tune(encoder, new_texts, new_labels, start=head, memory=memory)

Embeddings would go stale as the encoder learns; tokens do not.
"""

from __future__ import annotations

from ..core.memory import ReplayMemory
from ..core.mixers import CrossEntropy, LogitDistillation, ReplayCrossEntropy
from ..core.mixers.term import Term
from ..core.selection import ClassBalanced, Uniform
from ..core.stores import Growable, Ragged, Store
from ..core.stores.keeping import Reservoir
from .contrastive import ContrastivePairs


def er(capacity: int, replay: int = 16, seed: int = 0) -> ReplayMemory:
    """Experience replay: texts of old classes are classified along with the new ones (Chaudhry et al., On Tiny Episodic
    Memories in Continual Learning, 2019).

    Args:
        capacity: texts that are kept, balanced over the classes.
        replay: texts recalled per step.
        seed: of what is kept and recalled.
    """
    return _memory(capacity, CrossEntropy() + ReplayCrossEntropy(), {"replay": replay}, seed)


def der_pp(capacity: int, alpha: float = 0.2, beta: float = 1.0, replay: int = 16, seed: int = 0) -> ReplayMemory:
    """DER++: the logits that the texts had when they were remembered are held on to as well (Buzzega et al., Dark
    Experience for General Continual Learning, NeurIPS 2020).

    Args:
        capacity: texts that are kept, balanced over the classes.
        alpha: weight of the logits.
        beta: weight of the labels.
        replay: texts recalled per step, twice: for their logits and for their labels.
        seed: of what is kept and recalled.
    """
    mix = CrossEntropy() + beta * ReplayCrossEntropy("labels") + alpha * LogitDistillation("logits")
    return _memory(capacity, mix, {"labels": replay, "logits": replay}, seed)


def contrastive(capacity: int, weight: float = 1.0, replay: int = 16, seed: int = 0) -> ReplayMemory:
    """Experience replay with `ContrastivePairs` of new and recalled texts.

    Args:
        capacity: texts that are kept, balanced over the classes.
        weight: of the pairs.
        replay: texts recalled per step.
        seed: of what is kept and recalled.
    """
    mix = CrossEntropy() + ReplayCrossEntropy() + weight * ContrastivePairs()
    return _memory(capacity, mix, {"replay": replay}, seed)


def _memory(capacity: int, mix: Term, draws: dict[str, int], seed: int) -> ReplayMemory:
    columns = {"tokens": Ragged(), "logits": Growable()}
    store = Store(capacity, keep=ClassBalanced(Reservoir()), columns=columns, seed=seed)
    return ReplayMemory(store, ClassBalanced(Uniform()), mix, draws, seed=seed)
