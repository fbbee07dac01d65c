import pytest
import torch

from memreplay.core.batch import take
from memreplay.nlp.below import LayersBelow
from memreplay.nlp.classifier import transformer_layers
from memreplay.nlp.encoder import TextEncoder, token_rows

TEXTS = ["where is my card", "my card please", "the balance", "i lost it", "send the money left to a friend"]
PLACE = "encoder.layer"


class Counter:
    """Counts the calls of a layer."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self.calls = 0
        layer.register_forward_hook(self)

    def __call__(self, *ignored: object) -> None:
        self.calls += 1


@pytest.fixture
def encoder(tiny_encoder: str) -> TextEncoder:
    return TextEncoder.load(tiny_encoder, device="cpu")


def split(encoder: TextEncoder, layers: int, **options: int) -> tuple[LayersBelow, Counter]:
    every = transformer_layers(encoder)
    return LayersBelow(encoder, PLACE, torch.nn.ModuleList(every[-layers:]), **options), Counter(every[0])


def rows(encoder: TextEncoder, *numbers: int) -> torch.Tensor:
    return take({"tokens": token_rows(encoder, TEXTS)}, torch.tensor(numbers))["tokens"]


def test_texts_seen_before_skip_the_layers_below_and_give_the_same(encoder: TextEncoder) -> None:
    below, lowest = split(encoder, 2)
    for numbers in ((0, 1), (2, 3, 4)):
        below(rows(encoder, *numbers))
    assert lowest.calls == 2
    below(rows(encoder, 0, 4))  # runs both ways once
    before = lowest.calls
    for numbers in ((1, 4, 2), (0, 0), (3,)):
        tokens = rows(encoder, *numbers)
        vectors = below(tokens)
        assert lowest.calls == before
        torch.testing.assert_close(vectors, encoder(tokens))
        before = lowest.calls


def test_the_layers_above_get_the_same_gradients(encoder: TextEncoder) -> None:
    encoder.body.requires_grad_(False)
    top = torch.nn.ModuleList(transformer_layers(encoder)[-1:]).requires_grad_(True)
    below = LayersBelow(encoder, PLACE, top)
    tokens = rows(encoder, 0, 1, 4)
    gradients = []
    for _ in range(3):
        top.zero_grad()
        below(tokens)[:, 0].sum().backward()
        gradients.append([values.grad.clone() for values in top.parameters() if values.grad is not None])
    assert gradients[0]
    for later in gradients[1:]:
        torch.testing.assert_close(later, gradients[0])


def test_a_batch_with_a_new_text_is_computed_whole(encoder: TextEncoder) -> None:
    below, lowest = split(encoder, 3)
    below(rows(encoder, 0))
    tokens = rows(encoder, 0, 3)
    torch.testing.assert_close(below(tokens), encoder(tokens))
    assert lowest.calls == 3


def test_what_does_not_fit_is_not_kept(encoder: TextEncoder) -> None:
    below, lowest = split(encoder, 2, room=6 * 16 * 4)  # six tokens of sixteen numbers: the first text alone
    for _ in range(3):
        below(rows(encoder, 0, 1))
    assert lowest.calls == 3
    below(rows(encoder, 0))
    calls = lowest.calls
    below(rows(encoder, 0))
    assert lowest.calls == calls


def test_a_model_that_is_not_the_same_without_its_lower_layers_runs_whole(encoder: TextEncoder) -> None:
    last, kept = transformer_layers(encoder)[-1], {}
    transformer_layers(encoder)[0].register_forward_hook(lambda layer, args, output: kept.update(first=output))
    # the last layer adds what the first one said of these very texts
    last.register_forward_hook(lambda layer, args, output: output + kept.pop("first"))
    below, lowest = split(encoder, 1)
    tokens = rows(encoder, 0, 1)
    for _ in range(3):
        torch.testing.assert_close(below(tokens), encoder(tokens))
    assert lowest.calls == 7  # each time both here and there, and once when they were compared


def test_closed_it_leaves_nothing_behind(encoder: TextEncoder) -> None:
    below, lowest = split(encoder, 2)
    for _ in range(3):
        below(rows(encoder, 0))
    below.close()
    assert len(transformer_layers(encoder)) == 4
    assert not any(layer._forward_pre_hooks for layer in transformer_layers(encoder))
    before = lowest.calls
    encoder(rows(encoder, 0))
    assert lowest.calls == before + 1
