from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memreplay.core.heads import LogisticRegression
from memreplay.nlp.adapter import Recipe, TextAdapter
from memreplay.nlp.data import TextSet
from memreplay.nlp.encoder import TextEncoder
from memreplay.nlp.layers import SHARES, choose_layers, leave_one_out, solved_share, with_mean
from memreplay.nlp.pooling import Pooling
from memreplay.nlp.tuning import Tuning

TEXTS = [
    "where is my card",
    "my card please",
    "show my balance",
    "the money left",
    "send money to a friend",
    "transfer it",
]
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def brute_force(feature: torch.Tensor, label: torch.Tensor, judged: int) -> int:
    right = 0
    for row in range(judged):
        best, found = -float("inf"), -1
        for name in label.unique().tolist():
            others = [i for i in range(len(label)) if label[i] == name and i != row]
            if not others:
                continue
            mean = torch.nn.functional.normalize(feature[others], dim=1).mean(0)
            similarity = float(torch.nn.functional.cosine_similarity(mean, feature[row], dim=0))
            if similarity > best:
                best, found = similarity, name
        right += found == int(label[row])
    return right


@pytest.mark.parametrize("judged", [30, 20])
def test_leave_one_out_is_that_of_a_loop(judged: int) -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 6, (30,), generator=generator) * 2
    label[4] = 99  # alone in its class
    centres = torch.randn(100, 5, generator=generator, dtype=torch.float64)
    feature = centres[label] + 1.5 * torch.randn(30, 5, generator=generator, dtype=torch.float64)
    expected = brute_force(feature, label, judged)
    assert 0 < expected < judged
    assert leave_one_out(feature, label, judged) == expected


@pytest.mark.parametrize("names", [(), ("card", "money", "transfer")])
def test_the_choice_is_the_best_of_the_candidates(tiny_encoder: str, names: tuple[str, ...]) -> None:
    encoder = TextEncoder.load(tiny_encoder, device="cpu")
    labels = torch.cat([LABELS, torch.arange(len(names))])
    right = {}
    last = encoder.embed([*TEXTS, *names]).double()
    for layers in (None, (-2, -1), (-3, -2, -1)):
        other = TextEncoder.load(tiny_encoder, layers=layers, device="cpu").embed([*TEXTS, *names]).double()
        right[layers] = brute_force(torch.cat([last, last if layers is None else other], 1), labels, len(TEXTS))
    chosen = choose_layers(encoder, TEXTS, LABELS, names, depths=(1, 2, 3))
    assert chosen.pooling.also == max(right, key=lambda layers: right[layers])
    assert encoder.pooling.also is None
    assert chosen.body is encoder.body


def test_the_second_half_is_the_mean_of_the_layers(tiny_encoder: str) -> None:
    encoder = TextEncoder.load(tiny_encoder, device="cpu")
    both = with_mean(encoder, 3)
    vectors = both.embed(TEXTS)
    first, second = (2**0.5 * vectors).chunk(2, dim=1)
    mean = TextEncoder.load(tiny_encoder, layers=[2, 3, 4], device="cpu")
    torch.testing.assert_close(first, encoder.embed(TEXTS))
    torch.testing.assert_close(second, mean.embed(TEXTS))
    torch.testing.assert_close(vectors @ vectors.T, (first @ first.T + second @ second.T) / 2)
    assert both.embed([]).shape == (0, 32)
    assert encoder.pooling.also is None
    assert encoder.fingerprint() != both.fingerprint()
    same = TextEncoder.of_description(both.description(), device="cpu")
    assert same.fingerprint() == both.fingerprint()
    assert with_mean(encoder, 9).pooling.also == (-4, -3, -2, -1)
    assert with_mean(encoder).pooling.also == (-3, -2, -1)


@pytest.mark.parametrize("below", [False, True])
def test_the_solved_head_has_more_say_where_the_layers_below_help(
    below: bool, tiny_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = iter([4, 5] if below else [5, 5])  # with the last layer alone, and with the others
    monkeypatch.setattr("memreplay.nlp.layers.leave_one_out", lambda *_: next(right))
    encoder = TextEncoder.load(tiny_encoder, device="cpu")
    assert solved_share(encoder, TEXTS, LABELS) == SHARES[below]


def test_a_head_alone_reads_both_halves_and_two_one_each(tiny_encoder: str, tmp_path: Path) -> None:
    labels = [("card", "money", "send")[label] for label in LABELS.tolist()]
    tuned, head = Tuning(layers=2, epochs=2).tune(TextEncoder.load(tiny_encoder, device="cpu"), TEXTS, LABELS)
    adapter = TextAdapter(with_mean(tuned, 2), Recipe(label_texts=False))
    adapter.add_classes(TEXTS, labels)
    both = with_mean(tuned, 2).embed(TEXTS)
    solved = LogisticRegression(C=30.0).fit({"feature": both, "label": LABELS}, 3)
    with torch.no_grad():
        alone = solved(both).softmax(1)
        second = 2**0.5 * both.chunk(2, dim=1)[1]
        beside = LogisticRegression(C=30.0).fit({"feature": second, "label": LABELS}, 3)
        said = beside(second), head(tuned.embed(TEXTS))
        pair, leaning = ((share * said[0] + (1 - share) * said[1]).softmax(1) for share in (0.5, 0.8))
    torch.testing.assert_close(adapter.probabilities(adapter.encoder.embed(TEXTS)), alone)
    adapter = TextAdapter(adapter.encoder, replace(adapter.recipe, solved_share=0.8))
    adapter.learn(TextSet.of(TEXTS, labels), tuned=head)
    adapter.save(tmp_path / "leaning")
    loaded = TextAdapter.load(tmp_path / "leaning", device="cpu")
    torch.testing.assert_close(loaded.probabilities(adapter.encoder.embed(TEXTS)), leaning)
    adapter = TextAdapter(adapter.encoder, replace(adapter.recipe, solved_share=None))
    adapter.learn(TextSet.of(TEXTS, labels), tuned=head)
    torch.testing.assert_close(adapter.probabilities(adapter.encoder.embed(TEXTS)), pair)
    adapter.add_classes(["the balance left", "how do i show it"], ["balance", "balance"])
    assert adapter.tuned is not None
    new = tuned.embed(["the balance left", "how do i show it", "balance"]).mean(0)  # the name is one more
    torch.testing.assert_close(adapter.tuned.weight[3], 10 * new / new.norm())
    adapter.save(tmp_path)
    loaded = TextAdapter.load(tmp_path, device="cpu")
    feature = loaded.encoder.embed(TEXTS)
    torch.testing.assert_close(loaded.probabilities(feature), adapter.probabilities(feature))
    loaded.forget("money")
    assert loaded.probabilities(feature).shape == (6, 3)


def test_halves_have_one_length() -> None:
    with pytest.raises(ValueError, match=r"also is \(-2, -1\), but normalize is False"):
        Pooling(normalize=False, also=(-2, -1))


def test_bad_arguments_are_named(tiny_encoder: str) -> None:
    encoder = TextEncoder.load(tiny_encoder, device="cpu")
    with pytest.raises(ValueError, match=r"depths is \[0\]"):
        choose_layers(encoder, TEXTS, LABELS, depths=[0])
    with pytest.raises(ValueError, match=r"solved_share is 1.5; expected a number from 0 to 1"):
        Recipe(solved_share=1.5)
    with pytest.raises(ValueError, match="labels has 2 rows for 6 texts"):
        choose_layers(encoder, TEXTS, LABELS[:2])
