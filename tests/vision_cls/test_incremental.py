from pathlib import Path

import pytest
import torch
from torch import Tensor

from memreplay import ClassBalanced, JointCrossEntropy, ReplayMemory, Reservoir, Store
from memreplay.core.protocols import Sessions
from memreplay.vision_cls import MLP, digits
from memreplay.vision_cls.incremental import learn_sessions, predict
from memreplay.vision_cls.learner import Learner, Stage


def network(seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    return MLP(1, 8, 10, hidden=(16,))


def parameters(model: torch.nn.Module) -> Tensor:
    return torch.cat([values.detach().flatten() for values in model.parameters()])


def test_an_outcome_judges_all_classes_seen(tmp_path: Path) -> None:
    train, test = digits("train"), digits("test")
    sessions = Sessions(train.labels, base=6, way=2, shot=5)
    model = network()
    store = Store(60, keep=ClassBalanced(Reservoir()))
    learner = Learner(ReplayMemory(store, mix=JointCrossEntropy(), replay=16), when="after_session")
    stages = [Stage(epochs=5, lr=0.3), Stage(steps=30, batch_size=10, lr=0.1)]
    outcome = learn_sessions(learner, model, sessions, train, test, stages, out=tmp_path, progress_bar=False)
    assert len(outcome.by_session) == 3
    predicted = predict(model, test, sessions[-1].seen)
    assert outcome.last.overall == pytest.approx(100 * (predicted == test.labels).double().mean().item())
    base = test.labels < 6
    assert outcome.last.base == pytest.approx(100 * (predicted == test.labels)[base].double().mean().item())
    assert outcome.memory_bytes == store.nbytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "session-0", "session-1", "session-2"]

    again_model = network()
    again_store = Store(60, keep=ClassBalanced(Reservoir()))
    again_learner = Learner(ReplayMemory(again_store, mix=JointCrossEntropy(), replay=16), when="after_session")
    again = learn_sessions(
        again_learner, again_model, sessions, train, test, stages, out=tmp_path, resume=True, progress_bar=False
    )
    assert again.by_session[1:] == outcome.by_session[1:]
    assert torch.equal(parameters(again_model), parameters(model))
    assert torch.equal(again_store.rows().ids, store.rows().ids)


def test_only_classes_seen_are_predicted() -> None:
    test = digits("test")
    assert set(predict(network(), test, torch.tensor([7, 2])).tolist()) <= {2, 7}
