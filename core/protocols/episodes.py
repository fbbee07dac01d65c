"""Episodes: N-way K-shot tasks drawn from an array of labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from ..selection.uniform import sample_distinct
from .labels import Integers, as_integers, rows_by_class
from .seeding import generator_at

if TYPE_CHECKING:
    from ..batch import Batch
    from ..readout import Readout


@dataclass(frozen=True, eq=False)
class Episode:
    """One task: learn ``way`` classes from the support set, be judged on the query set.

    Rows are grouped by class, so ``support.view(way, shot)`` has one class per row.

    Attributes:
        number: its place among the episodes.
        classes: int64 (way,), the classes drawn; inside the episode ``classes[i]`` is called ``i``.
        support: int64 (way * shot,), row numbers of the support set.
        query: int64 (way * query,), row numbers of the query set, none of them in the support set.
        support_labels: int64 (way * shot,), from 0 to way - 1.
        query_labels: int64 (way * query,), from 0 to way - 1.
    """

    number: int
    classes: Tensor
    support: Tensor
    query: Tensor
    support_labels: Tensor
    query_labels: Tensor


class Episodes(Sequence[Episode]):
    """N-way K-shot episodes (Vinyals et al. 2016, "Matching Networks for One Shot Learning").

    Every episode draws ``way`` classes, and of each ``shot`` support and ``query`` query rows, all distinct. Episode
    ``i`` depends on ``seed`` and ``i`` only: any process or data-loader worker can make it alone, and all agree.

    Args:
        labels: the class of every row, (N,).
        way: classes per episode.
        shot: support rows per class.
        query: query rows per class.
        episodes: how many.
        seed: the seed.
        classes: draw from these classes only; None = all.

    Raises:
        ValueError: more ways than classes, an unknown class, or a class with fewer than ``shot + query`` rows.

    >>> episodes = Episodes([0] * 5 + [1] * 5 + [2] * 5, way=2, shot=1, query=3, episodes=100)
    >>> len(episodes), episodes[4].support.shape, episodes[4].query_labels.tolist()
    (100, torch.Size([2]), [0, 0, 0, 1, 1, 1])
    """

    def __init__(
        self,
        labels: Integers,
        way: int = 5,
        shot: int = 1,
        query: int = 15,
        episodes: int = 600,
        seed: int = 0,
        *,
        classes: Integers | None = None,
    ) -> None:
        bounds = {"way": (way, 1), "shot": (shot, 1), "query": (query, 0), "episodes": (episodes, 0)}
        for argument, (value, minimum) in bounds.items():
            if value < minimum:
                raise ValueError(f"{argument} is {value}; expected at least {minimum}")
        rows = rows_by_class(labels)
        if classes is not None:
            wanted = set(as_integers(classes, "classes").tolist())
            if wanted - set(rows):
                raise ValueError(f"classes has {sorted(wanted - set(rows))}; the labels have only {sorted(rows)}")
            rows = {name: rows[name] for name in sorted(wanted)}
        if way > len(rows):
            raise ValueError(f"way is {way} but there are {len(rows)} classes; expected at most as many")
        for name, members in rows.items():
            if len(members) < shot + query:
                raise ValueError(
                    f"class {name} has {len(members)} rows; expected at least {shot + query} "
                    f"({shot} support + {query} query)"
                )
        self.way, self.shot, self.query, self.seed = way, shot, query, seed
        self._episodes = episodes
        self._classes = torch.tensor(list(rows))
        self._rows = list(rows.values())

    def __len__(self) -> int:
        return self._episodes

    @overload
    def __getitem__(self, number: int) -> Episode: ...
    @overload
    def __getitem__(self, number: slice) -> list[Episode]: ...
    def __getitem__(self, number: int | slice) -> Episode | list[Episode]:
        if isinstance(number, slice):
            return [self._draw(i) for i in range(len(self))[number]]
        return self._draw(range(len(self))[number])

    def __iter__(self) -> Iterator[Episode]:
        return map(self._draw, range(len(self)))

    def __repr__(self) -> str:
        return (
            f"Episodes({len(self)} x {self.way}-way {self.shot}-shot, {self.query} query, "
            f"{len(self._classes)} classes, seed={self.seed})"
        )

    def _draw(self, number: int) -> Episode:
        generator = generator_at(self.seed, "episode", number)
        chosen = sample_distinct(len(self._rows), self.way, generator)
        drawn = [self._rows[i] for i in chosen.tolist()]
        drawn = [rows[sample_distinct(len(rows), self.shot + self.query, generator)] for rows in drawn]
        support, query = torch.split(torch.stack(drawn), [self.shot, self.query], dim=1)
        names = torch.arange(self.way)
        return Episode(
            number,
            self._classes[chosen],
            support.flatten(),
            query.flatten(),
            names.repeat_interleave(self.shot),
            names.repeat_interleave(self.query),
        )


class EpisodeBatches:
    """Episodes as batches to train on: the rows of the support set, then those of the query set, with the columns
    ``label``, from 0 to way - 1, and ``support``, which says which rows are which (see
    `memreplay.core.mixers.Episodic`).

    Args:
        rows: from row numbers (n,) to a batch, such as ``ImageSet.batch``.
        episodes: which rows; an epoch is all of them.
        transform: changes a batch, such as an augmentation, with the generator given, which depends on the seed of the
            episodes and the number of the episode only.

    >>> episodes = Episodes([0] * 5 + [1] * 5, way=2, shot=1, query=2, episodes=1)
    >>> batch = next(iter(EpisodeBatches(lambda index: {"input": index.float()}, episodes)))
    >>> batch["label"].tolist(), batch["support"].tolist()
    ([0, 1, 0, 0, 1, 1], [True, True, False, False, False, False])
    """

    def __init__(
        self,
        rows: Callable[[Tensor], Batch],
        episodes: Episodes,
        transform: Callable[[Batch, torch.Generator], Batch] | None = None,
    ) -> None:
        self.rows, self.episodes, self.transform = rows, episodes, transform

    def __len__(self) -> int:
        return len(self.episodes)

    def __iter__(self) -> Iterator[Batch]:
        for episode in self.episodes:
            batch = self.rows(torch.cat([episode.support, episode.query]))
            if self.transform is not None:
                batch = self.transform(batch, generator_at(self.episodes.seed, "transform", episode.number))
            labels = torch.cat([episode.support_labels, episode.query_labels])
            yield {**batch, "label": labels, "support": torch.arange(len(labels)) < len(episode.support)}


def episode_accuracies(readout: Readout, feature: Tensor, episodes: Iterable[Episode]) -> list[float]:
    """Accuracy on the query set of every episode, in percent; `mean_interval` of it is what papers report.

    Args:
        readout: predicts from the support set.
        feature: (N, D), made once for all episodes.
        episodes: over the N rows.

    >>> from memreplay.core.readout import NearestClassMean
    >>> feature = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> episodes = Episodes([0, 0, 1, 1], way=2, shot=1, query=1, episodes=3)
    >>> episode_accuracies(NearestClassMean("euclidean"), feature, episodes)
    [100.0, 100.0, 100.0]
    """
    accuracies = []
    for episode in episodes:
        shots = {"feature": feature[episode.support], "label": episode.support_labels}
        predicted = readout(shots, feature[episode.query]).labels.cpu()
        accuracies.append(100 * float((predicted == episode.query_labels).double().mean()))
    return accuracies
