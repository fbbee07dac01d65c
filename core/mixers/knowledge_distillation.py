"""KnowledgeDistillation: keep the softened probabilities of an earlier model (LwF)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch.nn.functional as F
from torch import Tensor

from .logit_distillation import known_classes
from .term import RowTerm, weighted_mean
from .view import View


@dataclass(frozen=True)
class KnowledgeDistillation(RowTerm):
    """Divergence from a teacher's softened probabilities (Hinton et al., Distilling the Knowledge in a Neural Network,
    2015; Li and Hoiem, Learning without Forgetting, ECCV 2016), over the classes that the teacher knew:

        ``T ** 2 * mean over rows of KL(softmax(z / T) || softmax(f(x) / T))``

    LwF writes the cross-entropy instead, which differs by the teacher's entropy, a constant, and has the same gradient.
    iCaRL keeps one sigmoid per class where this has a softmax. For LwF put the teacher's logits of the new rows into
    the batch and set ``draw=None``. Classes that a row holds NaN for (`Growable`) are left out of both softmaxes.

    Args:
        draw: name of the draw; None: the new rows.
        temperature: T; the higher, the more the small probabilities count.
        logits: output (B, C).
        stored: column (B, W) with the teacher's logits, W at most C.

    >>> import torch
    >>> view = View({"logits": torch.tensor([[1.0, 2.0]])}, {"logits": torch.tensor([[3.0, 4.0, 0.0]])})
    >>> KnowledgeDistillation()(view, {"replay": view})["knowledge_distillation"].allclose(torch.zeros(()), atol=1e-6)
    True
    """

    draw: str | None = "replay"
    _: KW_ONLY
    temperature: float = 2.0
    logits: str = "logits"
    stored: str = "logits"
    name: str = "knowledge_distillation"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; expected a number above 0")

    def loss(self, view: View) -> Tensor:
        logits, stored, unknown = known_classes(view, self.logits, self.stored)
        if unknown is not None:
            logits, stored = (part.masked_fill(unknown, float("-inf")) for part in (logits, stored))
        student = (logits / self.temperature).log_softmax(1)
        teacher = (stored / self.temperature).softmax(1)
        if unknown is not None:
            student = student.masked_fill(unknown, 0.0)  # times a probability of 0, which -inf would turn into NaN
        divergence = F.kl_div(student, teacher, reduction="none").sum(1)
        return weighted_mean(divergence, view.weights) * self.temperature**2
