"""Methods: the published ways to replay, and ours, as compositions of the core's parts.

Each returns a `Learner` with an empty memory. By default rows are offered to it in every step, as in the tables with
one pass over the data. The YAML files in ``recipes/`` have the same compositions, for few shots.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from ..core.memory import ReplayMemory
from ..core.mixers import (
    EMA,
    AGem,
    BinaryCrossEntropy,
    CrossEntropy,
    JointCrossEntropy,
    LogitDistillation,
    MaskedCrossEntropy,
    ReplayCrossEntropy,
    Transform,
)
from ..core.readout import NearestClassMean
from ..core.retrievers import Nearest, Rescored
from ..core.selection import ClassBalanced, Selector, TopScore, Uniform
from ..core.stores import Store
from ..core.stores.keeping import DiverseReservoir, GradientDiversity, Herding, Reservoir
from .learner import Learner

When = Literal["each_step", "before_session", "after_session"]

BALANCED = ClassBalanced(Reservoir())


def er(
    capacity: int,
    replay: int,
    *,
    keep: Selector = Reservoir(),  # noqa: B008 (immutable)
    draw: Selector = Uniform(),  # noqa: B008 (immutable)
    when: When = "each_step",
    transform: Transform | Sequence[Transform] | None = None,
    seed: int = 0,
) -> Learner:
    """Experience replay: one mean over new and recalled rows (Chaudhry et al., On Tiny Episodic Memories in Continual
    Learning, 2019)."""
    store = Store(capacity, keep=keep, seed=seed)
    return Learner(ReplayMemory(store, draw, JointCrossEntropy(), replay, transform, seed=seed), when=when)


def er_ace(
    capacity: int,
    replay: int,
    *,
    keep: Selector = Reservoir(),  # noqa: B008 (immutable)
    draw: Selector = Uniform(),  # noqa: B008 (immutable)
    when: When = "each_step",
    seed: int = 0,
) -> Learner:
    """ER-ACE: new rows compete with the classes of their own batch only (Caccia et al., New Insights on Reducing Abrupt
    Representation Change in Online Continual Learning, ICLR 2022)."""
    mix = MaskedCrossEntropy() + ReplayCrossEntropy()
    return Learner(ReplayMemory(Store(capacity, keep=keep, seed=seed), draw, mix, replay), when=when)


def der(capacity: int, replay: int, alpha: float, *, seed: int = 0) -> Learner:
    """DER: recalled rows keep the logits they had (Buzzega et al., Dark Experience for General Continual Learning,
    NeurIPS 2020)."""
    mix = CrossEntropy() + alpha * LogitDistillation()
    return Learner(ReplayMemory(Store(capacity, seed=seed), mix=mix, replay=replay), ("input", "logits"))


def der_pp(
    capacity: int,
    replay: int,
    alpha: float,
    beta: float,
    *,
    keep: Selector = Reservoir(),  # noqa: B008 (immutable)
    draw: Selector = Uniform(),  # noqa: B008 (immutable)
    when: When = "each_step",
    transform: Transform | Sequence[Transform] | None = None,
    seed: int = 0,
) -> Learner:
    """DER++: recalled logits and recalled labels, two draws of their own (Buzzega et al., 2020)."""
    mix = CrossEntropy() + beta * ReplayCrossEntropy("labels") + alpha * LogitDistillation("logits")
    draws = {"labels": replay, "logits": replay}
    store = Store(capacity, keep=keep, seed=seed)
    memory = ReplayMemory(store, dict.fromkeys(draws, draw), mix, draws, transform, seed=seed)
    return Learner(memory, ("input", "label", "logits"), when=when)


def a_gem(capacity: int, replay: int, *, seed: int = 0) -> Learner:
    """A-GEM: the gradient of the new rows may not raise the loss on recalled ones (Chaudhry et al., Efficient Lifelong
    Learning with A-GEM, ICLR 2019). An equal share of every class is stored when its session ends."""
    store = Store(capacity, keep=BALANCED, seed=seed)
    memory = ReplayMemory(store, mix=CrossEntropy() + ReplayCrossEntropy(), replay=replay, project=AGem())
    return Learner(memory, when="after_session")


def gss(capacity: int, replay: int, sample: int = 10, *, seed: int = 0) -> Learner:
    """GSS-greedy: rows are kept whose gradients differ (Aljundi et al., Gradient Based Sample Selection for Online
    Continual Learning, NeurIPS 2019, Algorithm 2); replayed as in ER. In the code of its authors and of Buzzega et al.
    (2020) the mean gradient of a batch must differ before any of its rows may enter; here each row is asked."""
    store = Store(capacity, keep=GradientDiversity(sample=sample), seed=seed)
    return Learner(ReplayMemory(store, mix=JointCrossEntropy(), replay=replay))


def mir(capacity: int, replay: int, candidates: int = 50, *, seed: int = 0) -> Learner:
    """MIR: of some candidates those are recalled whose loss the coming step would raise most (Aljundi et al., Online
    Continual Learning with Maximally Interfered Retrieval, NeurIPS 2019); replayed as in ER."""
    draw = Rescored(Uniform(), candidates)
    return Learner(ReplayMemory(Store(capacity, seed=seed), draw, JointCrossEntropy(), replay), score="interference")


def icarl(capacity: int, *, seed: int = 0) -> Learner:
    """iCaRL (Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, CVPR 2017): herded exemplars
    are learned together with the new rows, one sigmoid per class, the old ones held where the network had them before
    the session; the nearest mean of exemplars predicts. Features are not scaled to length 1, as in Buzzega et al.
    (2020), unlike in the paper."""
    return Learner(
        ReplayMemory(Store(capacity, seed=seed), mix=BinaryCrossEntropy(), replay=0),
        ("input", "label", "feature"),
        when="after_session",
        consolidate=ClassBalanced(Herding(normalize=False)),
        rows="joined",
        distil=True,
        readout=NearestClassMean("euclidean"),
    )


def gdumb(capacity: int, *, seed: int = 0) -> Learner:
    """GDumb: a balanced memory, and after every session a network trained from scratch on it alone (Prabhu et al.,
    GDumb: A Simple Approach that Questions Our Progress in Continual Learning, ECCV 2020). Of a class with more rows
    than its share a uniform sample is kept, where the paper keeps the first; there is no CutMix and no warm-up."""
    store = Store(capacity, keep=BALANCED, seed=seed)
    memory = ReplayMemory(store, mix=CrossEntropy(), replay=0)
    return Learner(memory, when="before_session", rows="memory", fresh=True)


def classic(capacity: int, replay: int, *, when: When = "each_step", seed: int = 0) -> Learner:
    """Kept by gradient norm, recalled by similarity, the same loss on memory as on data."""
    memory = ReplayMemory(
        Store(capacity, keep=TopScore("gradient_norm"), seed=seed),
        Nearest("feature"),
        CrossEntropy() + ReplayCrossEntropy(),
        replay,
    )
    columns = ("input", "label", "feature", "gradient_norm")
    return Learner(memory, columns, when=when, query="feature", refresh=True)


def ours(
    capacity: int,
    replay: int,
    alpha: float,
    beta: float = 1.0,
    *,
    keep: Selector = DiverseReservoir(),  # noqa: B008 (immutable)
    transform: Transform | Sequence[Transform] | None = None,
    decay: float = 0.999,
    seed: int = 0,
) -> Learner:
    """The best combination that we found: a memory of rows that differ, labels and logits of one draw, and a moving
    average of the weights that is read out. The learning rate should fall to 0 towards the end of a session
    (`FinalDecay`). Recalled rows may be changed a little (``transform``); then a plain reservoir does as well."""
    mix = CrossEntropy() + beta * ReplayCrossEntropy() + alpha * LogitDistillation()
    store = Store(capacity, keep=keep, seed=seed)
    memory = ReplayMemory(store, mix=mix, replay=replay, transform=transform, seed=seed)
    return Learner(memory, ("input", "label", "logits"), average=partial(EMA, decay=decay, warmup=True))
