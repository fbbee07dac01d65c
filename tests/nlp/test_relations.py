import pytest
import torch

from memreplay.nlp import TextEncoder
from memreplay.nlp.relations import Mention, embed_mentions


def test_markers_go_around_the_entities() -> None:
    words, head, tail = Mention(("a", "b", "c", "d", "e"), (3, 4), (0,)).marked()
    assert " ".join(words) == "# a # b c @ d e @"
    assert [words[i] for i in sorted(head)] == ["@", "d", "e", "@"]
    assert [words[i] for i in sorted(tail)] == ["#", "a", "#"]


def test_an_entity_inside_another() -> None:
    words, head, tail = Mention(("a", "b", "c"), (0, 1, 2), (1,)).marked()
    assert " ".join(words) == "@ a # b # c @"
    assert {words[i] for i in tail} == {"#", "b"}
    assert len(head) == 5


def test_positions_are_checked() -> None:
    with pytest.raises(ValueError, match=r"tail is \(3,\); expected positions among 2 words"):
        Mention(("a", "b"), (0,), (3,))


def test_batches_change_nothing_and_entities_matter(tiny_encoder: str) -> None:
    encoder = TextEncoder.load(tiny_encoder, device="cpu")
    words = ("where", "is", "my", "card", "please", "send", "money")
    mentions = [Mention(words, (3,), (6,)), Mention(words[:4], (0,), (3,)), Mention(words, (6,), (3,))]
    together = embed_mentions(encoder, mentions)
    alone = torch.cat([embed_mentions(encoder, [mention]) for mention in mentions])
    assert together.shape == (3, 48)
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    assert not torch.allclose(together[0, 16:], together[2, 16:], atol=1e-3)


def test_an_entity_that_was_cut_off(tiny_encoder: str) -> None:
    encoder = TextEncoder.load(tiny_encoder, device="cpu")
    vector = embed_mentions(encoder, [Mention(("card",) * 60, (0,), (59,))])[0]
    assert torch.allclose(vector[:16], vector[32:])
    assert not torch.allclose(vector[:16], vector[16:32])
