import pytest
import torch

from memreplay.nlp.encoder import TextEncoder
from memreplay.nlp.layers import choose_layers, leave_one_out

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
    for layers in (None, (-2, -1), (-3, -2, -1)):
        other = TextEncoder.load(tiny_encoder, layers=layers, device="cpu")
        right[layers] = brute_force(other.embed([*TEXTS, *names]).double(), labels, len(TEXTS))
    chosen = choose_layers(encoder, TEXTS, LABELS, names, depths=(1, 2, 3))
    assert chosen.pooling.layers == max(right, key=lambda layers: right[layers])
    assert encoder.pooling.layers is None
    assert chosen.body is encoder.body


def test_bad_arguments_are_named(tiny_encoder: str) -> None:
    encoder = TextEncoder.load(tiny_encoder, device="cpu")
    with pytest.raises(ValueError, match=r"depths is \[0\]"):
        choose_layers(encoder, TEXTS, LABELS, depths=[0])
    with pytest.raises(ValueError, match="labels has 2 rows for 6 texts"):
        choose_layers(encoder, TEXTS, LABELS[:2])
