from pathlib import Path

import pytest
import torch

from memreplay.nlp import TextEncoder
from memreplay.nlp.relations import Mention, embed_mentions


def test_markers_go_around_the_entities() -> None:
    words, (head, tail, between) = Mention(("a", "b", "c", "d", "e"), (3, 4), (0,)).marked()
    assert " ".join(words) == "# a # b c @ d e @"
    assert [words[i] for i in sorted(head)] == ["@", "d", "e", "@"]
    assert [words[i] for i in sorted(tail)] == ["#", "a", "#"]
    assert [words[i] for i in sorted(between)] == ["b", "c"]


def test_an_entity_inside_another() -> None:
    words, (head, tail, between) = Mention(("a", "b", "c"), (0, 1, 2), (1,)).marked()
    assert " ".join(words) == "@ a # b # c @"
    assert {words[i] for i in tail} == {"#", "b"}
    assert len(head) == 5
    assert not between


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
    assert not torch.allclose(together[0, :32], together[2, :32], atol=1e-3)


def test_vectors_are_means_of_hidden_states(tiny_encoder: str) -> None:
    """By hand, for a sentence whose words are one token each."""
    encoder = TextEncoder.load(tiny_encoder, device="cpu")
    mention = Mention(("where", "is", "my", "card", "please"), (0,), (3, 4))
    ids = encoder.tokenizer("@ where @ is my # card please #", return_tensors="pt")["input_ids"]
    hidden = encoder.body(input_ids=ids).last_hidden_state[0].detach()
    spans = (slice(1, 4), slice(6, 10), slice(4, 6))
    parts = [torch.nn.functional.normalize(hidden[span].mean(0), dim=0) for span in spans]
    assert torch.allclose(embed_mentions(encoder, [mention])[0], torch.cat(parts) / 3**0.5, atol=1e-5)


def test_vectors_are_kept(tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder.load(tiny_encoder, device="cpu")
    mentions = [Mention(("my", "card"), (0,), (1,)), Mention(("my", "card"), (1,), (0,))]
    first = embed_mentions(encoder, mentions, tmp_path)
    monkeypatch.setattr(encoder, "body", None)
    assert embed_mentions(encoder, mentions[::-1], tmp_path).equal(first.flip(0))


def test_an_entity_that_was_cut_off(tiny_encoder: str) -> None:
    encoder = TextEncoder.load(tiny_encoder, device="cpu")
    vector = embed_mentions(encoder, [Mention(("card",) * 60, (0,), (59,))])[0]
    assert not torch.allclose(vector[:16], vector[16:32])  # the tail is the mean over the sentence
    whole = encoder.embed(["@ card @ " + "card " * 60])[0]
    assert torch.allclose(vector[16:32] * 3**0.5, whole, atol=1e-5)
