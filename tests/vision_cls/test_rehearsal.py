import torch

from memreplay.core.incremental import Means
from memreplay.core.protocols.metrics import harmonic_mean
from memreplay.vision_cls import rehearsal
from memreplay.vision_cls.rehearsal import Rehearsal, chosen
from memreplay.vision_cls.session_methods import CANDIDATES, Candidate


def rows(classes: int = 10, n: int = 30) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(classes, 12, generator=generator)
    label = torch.arange(classes).repeat_interleave(n) + 40
    return {"feature": centre[label - 40] + 0.8 * torch.randn(len(label), 12, generator=generator), "label": label}


def test_classes_and_rows_are_parted() -> None:
    base = rows()
    found = Rehearsal.of(base, novel=0.4, shot=5, seed=0, rows=20)
    assert [len(session.classes) for session in found.sessions] == [6, 1, 1, 1, 1]
    assert [len(session.train) for session in found.sessions] == [6 * 15, 5, 5, 5, 5]
    assert found.test["label"].bincount()[40:].tolist() == [5] * 10
    seen = {tuple(row) for row in found.train["feature"].tolist()}
    assert not seen & {tuple(row) for row in found.test["feature"].tolist()}
    assert seen < {tuple(row) for row in base["feature"].tolist()}
    other = Rehearsal.of(base, novel=0.4, shot=5, seed=1, rows=20)
    assert other.sessions.class_order.tolist() != found.sessions.class_order.tolist()


def test_real_proportions() -> None:
    """60 base and 40 later classes in eight sessions become 36 and 24 in eight."""
    found = Rehearsal.of(rows(60, 8), novel=0.4, shot=2, seed=0)
    assert [len(session.classes) for session in found.sessions] == [36] + [3] * 8


def test_accuracies_by_hand() -> None:
    found = Rehearsal.of(rows(), novel=0.4, shot=5, seed=0)
    method = Means()
    base, novel = found.base_and_novel(method)
    assert method.head is not None
    order = found.sessions.class_order.tolist()
    right = [
        order[int(method.head(x[None]).argmax())] == int(y)
        for x, y in zip(found.test["feature"], found.test["label"], strict=True)
    ]
    is_base = [int(y) in order[:6] for y in found.test["label"]]
    assert base == 100 * sum(r for r, b in zip(right, is_base, strict=True) if b) / sum(is_base)
    assert novel == 100 * sum(r for r, b in zip(right, is_base, strict=True) if not b) / (len(right) - sum(is_base))


def test_the_best_setting_that_keeps_the_base() -> None:
    outcomes = {0.0: (80.0, 20.0), 0.5: (79.6, 40.0), 1.0: (70.0, 70.0)}

    class Fake:
        def __init__(self, value: float) -> None:
            self.value = value

    class Stage:
        sessions = Rehearsal.of(rows(), 0.4, 5, 0).sessions

        def base_and_novel(self, method: object) -> tuple[float, float]:
            return outcomes[method.value] if isinstance(method, Fake) else (80.0, 30.0)

    make = lambda seed, classes, value: Fake(value)  # noqa: E731
    for keeps, expected in ((False, 1.0), (True, 0.5)):
        CANDIDATES["fake"] = Candidate(make, {"value": tuple(outcomes)}, keeps_base=keeps)  # type: ignore[arg-type]
        try:
            assert chosen("fake", [Stage()]) == {"value": expected}  # type: ignore[list-item]
        finally:
            del CANDIDATES["fake"]
    assert harmonic_mean(70, 70) > harmonic_mean(79.6, 40) > harmonic_mean(80, 20)
    assert rehearsal.LOSS == 0.5
