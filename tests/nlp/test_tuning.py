from pathlib import Path

import pytest
import torch

from memreplay.nlp.classifier import transformer_layers
from memreplay.nlp.encoder import TextEncoder, token_rows
from memreplay.nlp.tuning import ByLength, Tuning

TEXTS = [
    "where is my card",
    "my card please",
    "show my balance",
    "the money left",
    "send money to a friend",
    "transfer it",
]
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture
def encoder(tiny_encoder: str) -> TextEncoder:
    return TextEncoder.load(tiny_encoder, device="cpu")


def cosines(encoder: TextEncoder) -> tuple[float, float]:
    """Mean cosine of texts of one class, and of two."""
    vectors = torch.nn.functional.normalize(encoder.embed(TEXTS), dim=1)
    similarity, same = vectors @ vectors.T, LABELS[:, None] == LABELS
    return float(similarity[same & ~torch.eye(6, dtype=torch.bool)].mean()), float(similarity[~same].mean())


def test_classes_come_apart(encoder: TextEncoder) -> None:
    tuned, _ = Tuning(layers=2, epochs=30, lr=3e-3, batch_size=3).tune(encoder, TEXTS, LABELS)
    same, other = cosines(tuned)
    before_same, before_other = cosines(encoder)
    assert same - other > before_same - before_other + 0.3


def test_only_the_top_layers_change(encoder: TextEncoder) -> None:
    before = {name: values.clone() for name, values in encoder.body.state_dict().items()}
    tuned, _ = Tuning(layers=2, epochs=1, batch_size=4).tune(encoder, TEXTS, LABELS)
    changed = {name for name, values in tuned.body.state_dict().items() if not torch.equal(values, before[name])}
    assert changed
    assert all(name.startswith(("encoder.layer.2.", "encoder.layer.3.")) for name in changed)
    assert changed <= set(tuned.tuned_weights())
    assert all(torch.equal(values, before[name]) for name, values in encoder.body.state_dict().items())
    assert tuned.fingerprint() != encoder.fingerprint()


def test_the_head_is_a_cosine_on_the_new_vectors(encoder: TextEncoder) -> None:
    tuned, head = Tuning(layers=2, epochs=40, lr=3e-3, batch_size=3, scale=8.0).tune(encoder, TEXTS, LABELS)
    vectors = tuned.embed(TEXTS)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(head.weight.norm(dim=1), torch.full((3,), 8.0))
    assert torch.equal(head(vectors).argmax(1), LABELS)


def test_a_seed_repeats_and_another_does_not(encoder: TextEncoder) -> None:
    state = torch.random.get_rng_state()
    tuning = Tuning(epochs=2, batch_size=4)
    first, again, other = (tuning.tune(encoder, TEXTS, LABELS, seed=seed)[0].embed(TEXTS) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("epochs", "steps", "taken"), [(5, 4, 4), (5, 2, 3), (1, 100, 3), (2, 100, 6)])
def test_all_texts_are_seen_once_however_few_steps(
    epochs: int, steps: int, taken: int, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("memreplay.nlp.tuning.fit", lambda *_, steps, **__: asked.append(steps))
    Tuning(layers=1, epochs=epochs, steps=steps, batch_size=2).tune(encoder, TEXTS, LABELS)
    assert asked == [taken]


def test_vectors_in_training_are_those_in_use(encoder: TextEncoder) -> None:
    texts = [*TEXTS, "i lost it"] * 5  # more tokens altogether than the model has positions
    torch.testing.assert_close(encoder(token_rows(encoder, texts)), encoder.embed(texts))


def test_layers_that_do_not_learn_have_no_dropout(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []
    forward = TextEncoder.forward

    def spy(self: TextEncoder, ids: torch.Tensor) -> torch.Tensor:
        layers = transformer_layers(self)
        seen.append((layers[0].training, layers[-1].training))
        return forward(self, ids)

    monkeypatch.setattr(TextEncoder, "forward", spy)
    tuned, _ = Tuning(layers=1, epochs=1).tune(encoder, TEXTS, LABELS)
    assert seen == [(False, True)]
    assert not tuned.training


def test_weights_are_saved_with_an_adapter(encoder: TextEncoder, tmp_path: Path) -> None:
    from memreplay.nlp.adapter import TextAdapter

    tuned, _ = Tuning(epochs=1).tune(encoder, TEXTS, LABELS)
    adapter = TextAdapter(tuned)
    adapter.add_classes(TEXTS, ["card", "card", "money", "money", "send", "send"])
    adapter.save(tmp_path)
    loaded = TextAdapter.load(tmp_path, device="cpu")
    assert torch.equal(loaded.encoder.embed(TEXTS), tuned.embed(TEXTS))


def test_batches_by_length_are_all_rows_once_with_little_padding() -> None:
    lengths = torch.randint(3, 40, (103,), generator=torch.Generator().manual_seed(0))
    sampler = ByLength(lengths, 8, seed=1, window=4)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append(torch.tensor(list(sampler)))
    assert all(torch.equal(order.sort().values, torch.arange(103)) for order in orders)
    assert not torch.equal(orders[0], orders[1])
    padded = sum(int(lengths[rows].max()) * len(rows) for rows in orders[0].split(8))
    at_random = sum(int(lengths[rows].max()) * len(rows) for rows in torch.arange(103).split(8))
    assert padded - int(lengths.sum()) < 0.5 * (at_random - int(lengths.sum()))


@pytest.mark.parametrize("name", ["layers", "epochs", "batch_size", "lr", "head_lr", "scale"])
def test_bad_settings_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; expected"):
        Tuning(**{name: 0})


def test_labels_must_fit(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="labels has 5 rows for 6 texts"):
        Tuning().tune(encoder, TEXTS, LABELS[:5])
    with pytest.raises(ValueError, match=r"labels has the classes \[0, 2\]"):
        Tuning().tune(encoder, TEXTS[:2], torch.tensor([0, 2]))
    encoder.set_precision("bfloat16")
    with pytest.raises(ValueError, match="encoder is in bfloat16"):
        Tuning().tune(encoder, TEXTS, LABELS)
