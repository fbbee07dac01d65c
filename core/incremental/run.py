"""Sessions learned by a method, one after the other, and what is known after each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..batch import Batch
from ..protocols.metrics import AccuracyMatrix, accuracy_by_group
from ..protocols.sessions import Sessions
from .method import Method


def learn_sessions(
    method: Method,
    sessions: Sessions,
    train: Batch,
    test: Batch,
    named: Tensor | None = None,
    after: Callable[[int], None] | None = None,
) -> AccuracyMatrix:
    """Accuracies after each session on the classes of every session so far, in percent.

    Args:
        method: it has learned nothing yet.
        sessions: over the labels of ``train``.
        train: ``feature`` (N, D) and ``label`` (N,).
        test: likewise.
        named: a vector per label that is known beforehand, such as that of the name of the class.
        after: called with the number of every session that was learned.
    """
    order = sessions.class_order
    labels, test_labels = sessions.relabel(train["label"]), sessions.relabel(test["label"])
    rows, sizes = [], []
    for session in sessions:
        classes = len(session.seen)
        new = {"feature": train["feature"][session.train], "label": labels[session.train]}
        method.learn(new, None if named is None else named[order[:classes]], classes)
        assert method.head is not None
        judged = session.test(test["label"])
        with torch.no_grad():
            predicted = method.head(test["feature"][judged]).argmax(1)
        groups = [sessions.relabel(past.classes) for past in sessions[: session.number + 1]]
        rows.append(accuracy_by_group(predicted, test_labels[judged], groups))
        sizes.append(int(torch.isin(test["label"], session.classes).sum()))
        if after is not None:
            after(session.number)
    return AccuracyMatrix(rows, sizes)
