"""Fine-tuning of an encoder in sessions, with a memory of tokens and logits."""

import copy

import pytest
import torch

from memreplay import ReplayMemory
from memreplay.nlp import TextEncoder
from memreplay.nlp.token_replay import contrastive, der_pp, er
from memreplay.nlp.tuning import Tuning, remember_tokens

OLD = ["where is my card", "my card please", "show my balance", "the money left"]
OLD_LABELS = torch.tensor([0, 0, 1, 1])
NEW = ["send money to a friend", "transfer it"]
NEW_LABELS = torch.tensor([2, 2])
HOW = Tuning(layers=2, epochs=40, lr=2e-3, head_lr=0.05, batch_size=4)


@pytest.fixture(scope="module")
def start(tiny_encoder: str) -> tuple[TextEncoder, object]:
    return HOW.tune(TextEncoder.load(tiny_encoder, device="cpu"), OLD, OLD_LABELS)


def remembering(memory: ReplayMemory, start: tuple) -> ReplayMemory:
    remember_tokens(memory, *start, OLD, OLD_LABELS)
    return memory


def old_accuracy(encoder: TextEncoder, head: torch.nn.Module) -> float:
    with torch.no_grad():
        return float((head(encoder.embed(OLD)).argmax(1) == OLD_LABELS).double().mean())


def test_tokens_come_back_as_they_went_in(start: tuple) -> None:
    memory = remembering(er(20), start)
    rows = memory.source.rows()
    assert [row.tolist() for row in rows["tokens"].unbind()] == start[0].tokens(OLD)
    torch.testing.assert_close(rows["logits"], start[1](start[0].embed(OLD)).detach())


@pytest.mark.parametrize("lora", [None, 4])
@pytest.mark.parametrize("method", [er(20, replay=4), der_pp(20, 0.1, replay=4), contrastive(20, replay=4)])
def test_replay_keeps_the_old_classes(method: ReplayMemory, lora: int | None, start: tuple) -> None:
    if lora is not None:
        pytest.importorskip("peft")
    memory = remembering(copy.deepcopy(method), start)
    encoder, head = HOW.tune(start[0], NEW, NEW_LABELS, start=start[1], memory=memory, lora=lora)
    assert old_accuracy(encoder, head) == 1
    assert head(encoder.embed(NEW)).argmax(1).tolist() == [2, 2]


def test_without_replay_they_are_forgotten(start: tuple) -> None:
    encoder, head = HOW.tune(start[0], NEW, NEW_LABELS, start=start[1])
    assert old_accuracy(encoder, head) < 1


def test_lora_leaves_a_plain_encoder(tiny_encoder: str) -> None:
    pytest.importorskip("peft")
    encoder = TextEncoder.load(tiny_encoder, device="cpu")
    tuned, _ = Tuning(layers=2, epochs=2).tune(encoder, OLD, OLD_LABELS, lora=2)
    assert tuned.body.state_dict().keys() == encoder.body.state_dict().keys()
    changed = tuned.tuned_weights()
    assert changed
    assert all(name.startswith(("encoder.layer.2.", "encoder.layer.3.")) for name in changed)
    before = encoder.body.state_dict()
    ranks = [torch.linalg.matrix_rank(changed[name] - before[name], atol=1e-6) for name in changed]
    assert max(ranks) <= 2
    assert any(rank > 0 for rank in ranks)
    with pytest.raises(ValueError, match="lora is 0; expected a rank of at least 1"):
        Tuning().tune(encoder, OLD, OLD_LABELS, lora=0)


def test_new_classes_must_follow_the_old(start: tuple) -> None:
    with pytest.raises(ValueError, match=r"labels has the classes \[3\]; expected every number from 2 on"):
        HOW.tune(start[0], NEW, torch.tensor([3, 3]), start=start[1])
