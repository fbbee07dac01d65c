import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memreplay.core.selection import ClassBalanced, Uniform
from memreplay.core.stores.files import write_save
from memreplay.core.stores.gaussian import GaussianStore

KINDS = ["diag", "shared", "full", "lowrank:2", "lowrank:50"]
EXACT = ["diag", "shared", "full"]


def cloud(n=60, dim=4, classes=3, seed=0, offset=5.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    mixing = rng.normal(size=(classes, dim, dim))
    features = np.einsum("nd,nde->ne", rng.normal(size=(n, dim)), mixing[labels]) + offset * labels[:, None]
    return torch.from_numpy(features), torch.from_numpy(labels)


def filled(kind, features, labels, sizes=(7,), shrinkage=0.0, **options):
    memory = GaussianStore(covariance=kind, shrinkage=shrinkage, **options)
    start, step = 0, 0
    while start < len(labels):
        stop = start + sizes[step % len(sizes)]
        memory.add({"feature": features[start:stop], "label": labels[start:stop]})
        start, step = stop, step + 1
    return memory


def two_pass(features, labels, kind):
    """Means and covariances of all rows at once, from numpy."""
    x, y = features.double().numpy(), labels.numpy()
    names = sorted(set(y.tolist()))
    means = {name: x[y == name].mean(0) for name in names}
    if kind == "shared":
        pooled = sum((x[y == name] - means[name]).T @ (x[y == name] - means[name]) for name in names)
        covariances = dict.fromkeys(names, pooled / (len(x) - len(names)))
    else:
        covariances = {name: np.atleast_2d(np.cov(x[y == name].T)) for name in names}
    if kind == "diag":
        covariances = {name: np.diag(np.diag(value)) for name, value in covariances.items()}
    return means, covariances


def same(first, second):
    """Whether two states are equal bit for bit."""
    assert first["meta"] == second["meta"]
    assert list(first["tensors"]) == list(second["tensors"])
    for name, values in first["tensors"].items():
        assert values.dtype is second["tensors"][name].dtype
        assert torch.equal(values, second["tensors"][name]), name
    return True


# -- statistics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("sizes", [(1,), (7,), (3, 20, 1), (1000,)])
def test_statistics_equal_two_passes_however_the_rows_came(kind, sizes):
    features, labels = cloud()
    memory = filled(kind, features, labels, sizes)
    means, covariances = two_pass(features, labels, kind)
    assert sorted(memory.classes.tolist()) == sorted(means)
    for name in means:
        assert memory.mean(name).numpy() == pytest.approx(means[name], abs=1e-10)
        assert memory.covariance(name).numpy() == pytest.approx(covariances[name], abs=1e-10)
    assert dict(zip(memory.classes.tolist(), memory.counts.tolist(), strict=True)) == {
        name: int((labels == name).sum()) for name in means
    }
    assert memory.seen == len(labels)


@pytest.mark.parametrize("kind", EXACT)
def test_far_from_the_origin_no_digits_are_lost(kind):
    features, labels = cloud(offset=1e6)
    memory = filled(kind, features, labels, (1, 5))
    for name, covariance in two_pass(features, labels, kind)[1].items():
        assert memory.covariance(name).numpy() == pytest.approx(covariance, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(EXACT),
    st.integers(0, 2**16),
    st.integers(0, 40),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_merging_equals_adding(kind, seed, cut, sizes):
    features, labels = cloud(40, 3, 4, seed)
    first, second = filled(kind, features[:cut], labels[:cut], sizes), filled(kind, features[cut:], labels[cut:], sizes)
    before = second.state_dict()
    first.merge(second)
    assert same(before, second.state_dict())
    means, covariances = two_pass(features, labels, kind) if kind == "shared" else two_pass(features, labels, "full")
    assert int(first.counts.sum()) == first.seen == 40
    for name in means:
        assert first.mean(name).numpy() == pytest.approx(means[name], abs=1e-10)
        if (labels == name).sum() > 1:
            expected = np.diag(np.diag(covariances[name])) if kind == "diag" else covariances[name]
            assert first.covariance(name).numpy() == pytest.approx(expected, abs=1e-10)


def test_a_low_rank_that_suffices_is_exact():
    features, labels = cloud(60, dim=6)
    memory = filled("lowrank:50", features, labels, (1, 4))
    for name, covariance in two_pass(features, labels, "full")[1].items():
        assert memory.covariance(name).numpy() == pytest.approx(covariance, abs=1e-10)


def test_a_low_rank_is_exact_for_as_many_shots():
    features, labels = cloud(9, dim=20, classes=3)
    memory = filled("lowrank:8", features, labels, (2,))
    full = filled("full", features, labels, (2,))
    for name in memory.classes.tolist():
        assert torch.allclose(memory.covariance(name), full.covariance(name), atol=1e-10)


def test_a_low_rank_keeps_variances_and_the_leading_direction():
    rng = np.random.default_rng(0)
    direction = np.ones(10) / np.sqrt(10)
    x = rng.normal(size=(500, 1)) * 10 * direction + rng.normal(size=(500, 10)) * 0.3
    memory = filled("lowrank:2", torch.from_numpy(x), torch.zeros(500, dtype=torch.int64), (25,))
    got, expected = memory.covariance(0).numpy(), np.cov(x.T)
    assert np.diag(got) == pytest.approx(np.diag(expected), abs=1e-10)
    assert np.linalg.norm(got - expected) < 0.01 * np.linalg.norm(expected)
    assert np.linalg.eigvalsh(got).min() > 0
    assert abs(np.linalg.eigh(got)[1][:, -1] @ direction) > 0.999


def test_low_rank_merges():
    features, labels = cloud(60, dim=6)
    one = filled("lowrank:6", features[:30], labels[:30])
    one.merge(filled("lowrank:6", features[30:], labels[30:]))
    for name, covariance in two_pass(features, labels, "full")[1].items():
        assert one.covariance(name).numpy() == pytest.approx(covariance, abs=1e-10)


@pytest.mark.parametrize("kind", EXACT)
def test_merging_with_oneself_doubles_the_rows(kind):
    features, labels = cloud()
    memory, twice = filled(kind, features, labels), filled(kind, features.repeat(2, 1), labels.repeat(2))
    memory.merge(memory)
    for name in range(3):
        assert torch.allclose(memory.covariance(name), twice.covariance(name), atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_shrinkage_by_hand(kind):
    features = torch.tensor([[0.0, 0.0], [2.0, 4.0], [10.0, 10.0], [10.0, 16.0]])
    memory = filled(kind, features, torch.tensor([0, 0, 1, 1]), shrinkage=0.25)
    # within-class scatter: class 0 has [[2, 4], [4, 8]], class 1 has [[0, 0], [0, 18]], one degree of freedom each
    pooled = torch.tensor([1.0, 13.0]).double().diag()
    raw = torch.tensor([[2.0, 4.0], [4.0, 8.0]]).double()
    raw = {"diag": raw.diag().diag(), "shared": torch.tensor([[1.0, 2.0], [2.0, 13.0]]).double()}.get(kind, raw)
    assert torch.allclose(memory.covariance(0), 0.75 * raw + 0.25 * pooled)


def test_a_single_shot_takes_the_spread_of_the_others():
    features, labels = cloud()
    memory = filled(
        "full", torch.cat([features, torch.zeros(1, 4)]), torch.cat([labels, torch.tensor([9])]), shrinkage=0.5
    )
    assert torch.allclose(memory.covariance(9), 0.5 * filled("shared", features, labels).covariance(0).diag().diag())
    assert not filled("full", features[:1], labels[:1]).covariance(int(labels[0])).any()


# -- draws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_draws_have_the_moments_they_were_drawn_with(kind, shrinkage):
    features, labels = cloud()
    memory = filled(kind, features, labels, shrinkage=shrinkage, seed=3)
    rows = memory.draw(60_000)
    for name in range(3):
        drawn = rows["feature"][rows["label"] == name]
        mean, covariance = memory.mean(name), memory.covariance(name)
        n = len(drawn)
        assert n == 20_000
        assert ((drawn.mean(0) - mean).abs() < 4.5 * (covariance.diag() / n).sqrt()).all()
        spread = covariance.diag()
        error = ((torch.outer(spread, spread) + covariance.square()) / n).sqrt()
        assert ((drawn.T.cov() - covariance).abs() < 4.5 * error).all()


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_normal(kind):
    stats = pytest.importorskip("scipy.stats")
    features, labels = cloud()
    memory = filled(kind, features, labels, shrinkage=0.1, seed=1)
    rows = memory.draw(6000)
    gap = rows["feature"][rows["label"] == 1] - memory.mean(1)
    distance = (gap @ torch.linalg.inv(memory.covariance(1)) * gap).sum(1)
    assert stats.kstest(distance.numpy(), "chi2", args=(4,)).pvalue > 0.001


def test_a_singular_covariance_can_be_drawn_from():
    features = torch.tensor([[0.0, 0.0, 1.0], [2.0, 2.0, 1.0]])
    drawn = filled("full", features, torch.zeros(2, dtype=torch.int64)).draw(4000)["feature"].double()
    assert torch.allclose(drawn[:, 0], drawn[:, 1], atol=1e-6)
    assert torch.allclose(drawn[:, 2], torch.ones(4000).double())
    assert float(drawn[:, 0].var()) == pytest.approx(2, rel=0.15)


def test_classes_are_balanced_by_default_whatever_was_seen_of_them():
    memory = filled("diag", torch.randn(100, 2), torch.tensor([0] * 90 + [1] * 7 + [5] * 3))
    for rows in (memory.draw(11), memory.draw(11, by=ClassBalanced(Uniform()))):
        assert sorted(rows["label"].bincount(minlength=6)[[0, 1, 5]].tolist()) == [3, 4, 4]
        assert torch.equal(memory.classes[rows.slots], rows["label"])
        assert rows["label"][:3].sort().values.tolist() == [0, 1, 5]
        assert (rows.ids == -1).all()
        assert rows.scores is None
        assert rows.weights is None
    firsts = {int(memory.draw(1)["label"]) for _ in range(50)}
    assert firsts == {0, 1, 5}


def test_uniform_draws_follow_the_rows_seen():
    stats = pytest.importorskip("scipy.stats")
    memory = filled("diag", torch.randn(100, 2), torch.tensor([0] * 70 + [1] * 20 + [5] * 10))
    counts = memory.draw(5000, by=Uniform())["label"].bincount(minlength=6)[[0, 1, 5]]
    assert stats.chisquare(counts.tolist(), [3500, 1000, 500]).pvalue > 0.001


def test_any_other_selector_chooses_among_candidates():
    class Closest:
        needs = ("feature",)

        def select(self, pool, k, *, query=None, generator):
            return torch.cdist(query["feature"], pool["feature"]).min(0).values.argsort()[:k]

    features, labels = cloud(200, offset=30.0)
    memory = filled("diag", features.float(), labels)
    rows = memory.draw(8, by=Closest(), query={"feature": memory.mean(1).float()[None]})
    assert len(rows) == 8
    assert rows["label"].tolist() == [1] * 8
    assert torch.equal(memory.classes[rows.slots], rows["label"])


def test_draws_are_of_the_dtype_that_came():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        memory = filled("full", torch.randn(10, 2).to(dtype), torch.arange(10) % 2)
        assert memory.draw(3)["feature"].dtype is dtype
        assert memory.means.dtype is torch.float64


def test_nothing_is_drawn_from_nothing():
    memory = GaussianStore()
    assert len(memory) == len(memory.draw(5)) == 0
    features, labels = cloud()
    for kind in KINDS:
        rows = filled(kind, features, labels).draw(0)
        assert len(rows) == 0
        assert rows["feature"].shape == (0, 4)
    with pytest.raises(ValueError, match="n is -1"):
        memory.draw(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_and_the_global_generator_is_left_alone(kind):
    features, labels = cloud()
    before = torch.get_rng_state()
    first, again, other = (filled(kind, features, labels, seed=seed).draw(9)["feature"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_draw_after_an_addition_uses_the_new_statistics():
    memory = filled("full", torch.randn(50, 2), torch.zeros(50, dtype=torch.int64), shrinkage=0.1)
    memory.draw(5)
    memory.add({"feature": torch.randn(5000, 2) * 100, "label": torch.zeros(5000, dtype=torch.int64)})
    assert float(memory.draw(2000)["feature"].std()) > 80


# -- classes ----------------------------------------------------------------------------------------------------


def test_slots_are_those_of_the_classes():
    memory = GaussianStore(feature="embedding", label="intent")
    batch = {"embedding": torch.randn(4, 2), "intent": torch.tensor([7, -3, 7, 2]), "logits": torch.randn(4, 9)}
    slots = memory.add(batch)
    assert slots.dtype is torch.int64
    assert memory.classes[slots].tolist() == [7, -3, 7, 2]
    later = memory.add({"embedding": torch.randn(2, 2), "intent": torch.tensor([1, 7], dtype=torch.int32)})
    assert memory.classes[later].tolist() == [1, 7]
    assert sorted(memory.draw(4)["intent"].tolist()) == [-3, 1, 2, 7]


@pytest.mark.parametrize("kind", ["diag", "full", "lowrank:3"])
def test_a_forgotten_class_leaves_no_trace(kind):
    features, labels = cloud()
    memory = filled(kind, features, labels)
    memory.draw(5)
    gone = memory.forget(label=1)
    kept = labels != 1
    clean = filled(kind, features[kept], labels[kept], (1000,))
    assert gone == int((labels == 1).sum())
    assert sorted(memory.classes.tolist()) == [0, 2]
    for name in (0, 2):
        assert torch.allclose(memory.mean(name), clean.mean(name))
        if kind != "lowrank:3":
            assert torch.allclose(memory.covariance(name), clean.covariance(name))
    assert set(memory.draw(50)["label"].tolist()) == {0, 2}
    assert memory.seen == len(labels)
    assert memory.audit == [{"where": {"label": [1]}, "rows": gone, "seen": 60}]


def test_classes_can_be_forgotten_together_and_learned_again():
    features, labels = cloud()
    memory = filled("shared", features, labels)
    assert memory.forget(label=torch.tensor([0, 2, 8])) == int((labels != 1).sum())
    assert memory.forget(label=[8]) == 0
    assert memory.forget(label=1) == int((labels == 1).sum())
    assert len(memory) == 0
    memory.add({"feature": torch.randn(6, 9), "label": torch.zeros(6, dtype=torch.int64)})
    assert memory.means.shape == (1, 9)
    assert len(memory.audit) == 3


def test_unknown_classes_and_columns_are_named():
    memory = filled("diag", *cloud())
    for ask in (memory.mean, memory.covariance):
        with pytest.raises(KeyError, match="no row of class 8 was seen"):
            ask(8)
    with pytest.raises(ValueError, match=r"forget was given \['source'\]; expected only 'label'"):
        memory.forget(source=1)


def test_nearest_classes_by_brute_force():
    features, labels = cloud(200, classes=9, offset=1.0)
    memory = filled("diag", features, labels)
    query = torch.randn(20, 4)
    expected = [
        sorted(range(9), key=lambda name: float((memory.mean(name) - row.double()).square().sum()))[:3] for row in query
    ]
    assert memory.nearest(query, 3).tolist() == expected
    assert memory.nearest(query, 100).shape == (20, 9)
    with pytest.raises(ValueError, match="k is 0"):
        memory.nearest(query, 0)
    with pytest.raises(ValueError, match=r"query has shape \(20, 3\); expected \(rows, 4\)"):
        memory.nearest(query[:, :3])


# -- calibration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_follows_the_formula(kind):
    features, labels = cloud(200, classes=6, offset=1.0)
    memory = filled(kind, features, labels)
    shots = torch.randn(3, 4)
    calibrated = memory.calibrate(shots, k=2, alpha=0.3)
    for i, shot in enumerate(shots.double()):
        a, b = memory.nearest(shot[None], 2)[0].tolist()
        assert torch.allclose(calibrated.mean[i], (memory.mean(a) + memory.mean(b) + shot) / 3)
        expected = (memory.covariance(a) + memory.covariance(b)) / 2 + 0.3
        assert torch.allclose(calibrated.covariance[i], expected)


def test_calibrated_draws_share_the_shots_and_have_their_moments():
    features, labels = cloud(200, classes=6)
    shots = torch.randn(2, 4, generator=torch.Generator().manual_seed(1)) * 50
    calibrated = filled("full", features, labels).calibrate(shots)
    drawn = calibrated.draw(20_001, torch.Generator().manual_seed(0))
    assert drawn.dtype is torch.float32
    for i, n in ((0, 10_001), (1, 10_000)):
        part = drawn[i::2].double()
        assert len(part) == n
        covariance = calibrated.covariance[i]
        assert ((part.mean(0) - calibrated.mean[i]).abs() < 4.5 * (covariance.diag() / n).sqrt()).all()
        spread = covariance.diag()
        error = ((torch.outer(spread, spread) + covariance.square()) / n).sqrt()
        assert ((part.T.cov() - covariance).abs() < 4.5 * error).all()


def test_a_single_shot_needs_no_batch():
    memory = filled("diag", *cloud())
    shot = torch.randn(4)
    assert torch.equal(memory.calibrate(shot).mean, memory.calibrate(shot[None]).mean)
    assert memory.calibrate(shot).draw(1, torch.Generator()).shape == (1, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature": torch.randn(2, 3)}, r"feature has shape \(2, 3\); expected \(rows, 4\)"),
        ({"feature": torch.randn(4), "k": 0}, "k is 0"),
        ({"feature": torch.randn(4), "alpha": -1.0}, "alpha is -1.0"),
    ],
)
def test_calibration_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        filled("diag", *cloud()).calibrate(**arguments)
    with pytest.raises(ValueError, match="holds no class"):
        GaussianStore().calibrate(torch.randn(4))


# -- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"feature": torch.randn(2, 4)}, r"column 'label' is missing; the batch has \['feature'\]"),
        ({"label": torch.zeros(2).long()}, "column 'feature' is missing"),
        (
            {"feature": torch.randn(2, 5), "label": torch.zeros(2).long()},
            r"column 'feature' has shape \(2, 5\); expected \(rows, 4\)",
        ),
        ({"feature": torch.randn(2, 4, 1), "label": torch.zeros(2).long()}, r"column 'feature' has shape \(2, 4, 1\)"),
        ({"feature": torch.ones(2, 4).long(), "label": torch.zeros(2).long()}, "column 'feature' is torch.int64"),
        ({"feature": torch.randn(2, 4), "label": torch.zeros(3).long()}, "has 3 rows; expected 2"),
        ({"feature": torch.randn(2, 4), "label": torch.zeros(2)}, "column 'label' is torch.float32"),
        ({"feature": torch.randn(2, 4), "label": torch.zeros(2, 2).long()}, "column 'label' is torch.int64 of shape"),
        (
            {"feature": torch.tensor([[0.0] * 4, [0, torch.nan, 0, 0]]), "label": torch.zeros(2).long()},
            "NaN or infinity in row 1",
        ),
        ({"feature": torch.full((1, 4), torch.inf), "label": torch.tensor([9])}, "NaN or infinity in row 0"),
    ],
)
def test_bad_batches_change_nothing(kind, batch, message):
    memory = filled(kind, *cloud())
    before = memory.state_dict()
    with pytest.raises(ValueError, match=message):
        memory.add(batch)
    assert same(before, memory.state_dict())


def test_an_empty_batch_is_nothing():
    memory = filled("full", *cloud())
    before = memory.state_dict()
    slots = memory.add({"feature": torch.empty(0, 4), "label": torch.empty(0, dtype=torch.int64)})
    assert slots.shape == (0,)
    assert same(before, memory.state_dict())


@pytest.mark.parametrize("kind", ["diagonal", "lowrank", "lowrank:0", "lowrank:-1", "lowrank:x", "Full", ""])
def test_unknown_covariances_are_refused(kind):
    with pytest.raises(ValueError, match=r"covariance is .*expected 'diag', 'shared', 'full' or 'lowrank:r'"):
        GaussianStore(covariance=kind)


def test_a_shrinkage_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"shrinkage is 1.5"):
        GaussianStore(shrinkage=1.5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"kind": "diag", "dim": 4}, "other has kind 'diag'; expected 'full'"),
        ({"kind": "full", "dim": 5}, "other has 5 features; expected 4"),
    ],
)
def test_memories_that_differ_do_not_merge(other, message):
    memory = filled("full", *cloud())
    before = memory.state_dict()
    with pytest.raises(ValueError, match=message):
        memory.merge(filled(other["kind"], *cloud(dim=other["dim"])))
    assert same(before, memory.state_dict())


def test_merging_with_nothing():
    memory, features = filled("full", *cloud()), cloud()[0]
    before = memory.state_dict()
    memory.merge(GaussianStore(covariance="full"))
    assert same(before, memory.state_dict())
    empty = GaussianStore(covariance="full")
    empty.merge(memory)
    assert torch.equal(empty.means, memory.means)
    assert empty.draw(1)["feature"].dtype is features.dtype


def test_rows_learned_in_inference_mode_can_be_added_to_later():
    memory = GaussianStore(covariance="full")
    with torch.inference_mode():
        memory.add({"feature": torch.randn(4, 2), "label": torch.zeros(4).long()})
    memory.add({"feature": torch.randn(4, 2, requires_grad=True), "label": torch.zeros(4).long()})
    assert memory.counts.tolist() == [8]
    assert not memory.draw(2)["feature"].requires_grad


# -- saving -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_memory_goes_on_bit_for_bit(kind, tmp_path):
    features, labels = cloud()
    memory = filled(kind, features, labels, shrinkage=0.2)
    memory.draw(3)
    memory.forget(label=2)
    torch.save(memory.state_dict(), tmp_path / "memory.pt")
    restored = GaussianStore(covariance=kind, shrinkage=0.2, seed=99)
    restored.load_state_dict(torch.load(tmp_path / "memory.pt", weights_only=True))
    assert same(memory.state_dict(), restored.state_dict())
    for step in (memory, restored):
        step.add({"feature": features[:9], "label": labels[:9]})
    first, second = memory.draw(7), restored.draw(7)
    assert torch.equal(first["feature"], second["feature"])
    assert torch.equal(first["label"], second["label"])
    assert same(memory.state_dict(), restored.state_dict())


def test_a_memory_on_disk(tmp_path):
    memory = filled("lowrank:2", *cloud(), shrinkage=0.2, fingerprint="resnet")
    memory.save(tmp_path / "memory")
    restored = GaussianStore.load(tmp_path / "memory", fingerprint="resnet")
    assert same(memory.state_dict(), restored.state_dict())
    assert torch.equal(memory.draw(5)["feature"], restored.draw(5)["feature"])
    with pytest.raises(ValueError, match="fingerprint 'resnet'; expected 'conv4'"):
        GaussianStore.load(tmp_path / "memory", fingerprint="conv4")
    with pytest.raises(FileNotFoundError):
        GaussianStore.load(tmp_path)
    write_save(tmp_path / "store", {"ids": torch.arange(3)}, {"kind": "Store"})
    with pytest.raises(ValueError, match="holds a 'Store'; expected a 'GaussianStore'"):
        GaussianStore.load(tmp_path / "store")


def test_a_state_is_a_copy():
    memory = filled("full", *cloud())
    state, before = memory.state_dict(), memory.state_dict()
    memory.add({"feature": torch.randn(3, 4), "label": torch.tensor([0, 1, 2])})
    assert same(state, before)
    memory.load_state_dict(state)
    memory.add({"feature": torch.randn(3, 4), "label": torch.tensor([0, 1, 2])})
    assert same(state, before)


def test_an_empty_memory_can_be_saved():
    memory = GaussianStore()
    memory.load_state_dict(GaussianStore(seed=4).state_dict())
    assert same(memory.state_dict(), GaussianStore(seed=4).state_dict())
    memory.add({"feature": torch.randn(3, 4), "label": torch.tensor([0, 1, 2])})


def test_the_meta_is_json_and_the_summary_too():
    memory = filled("diag", *cloud(), fingerprint="resnet")
    meta = memory.state_dict()["meta"]
    assert json.loads(json.dumps(meta)) == meta
    summary = memory.summary()
    assert json.loads(json.dumps(summary))["dim"] == 4
    assert summary["bytes"] == memory.nbytes == 3 * 8 + 2 * 3 * 4 * 8
    assert sum(summary["classes"].values()) == summary["seen"] == 60
    assert "3 classes x 4 features" in repr(memory)


def _tamper(change):
    def apply(state):
        change(state["meta"], state["tensors"])

    return apply


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda state: state.pop("meta"), "expected 'meta' and 'tensors'"),
        (_tamper(lambda meta, tensors: meta.update(covariance="diag")), "covariance 'diag'; expected 'full'"),
        (_tamper(lambda meta, tensors: meta.update(shrinkage=0.5)), "shrinkage 0.5; expected 0.0"),
        (_tamper(lambda meta, tensors: meta.update(kind="Store")), "kind 'Store'; expected 'GaussianStore'"),
        (_tamper(lambda meta, tensors: meta.update(dtype=["x"])), "expected a dtype"),
        (_tamper(lambda meta, tensors: meta.pop("seen")), "expected a dtype, the rows seen"),
        (_tamper(lambda meta, tensors: tensors.pop("means")), "no tensor 'means'"),
        (
            _tamper(lambda meta, tensors: tensors.update(counts=tensors["counts"][:2])),
            r"'counts' as torch.int64 \(2,\)",
        ),
        (_tamper(lambda meta, tensors: tensors["counts"].zero_()), "without rows"),
        (_tamper(lambda meta, tensors: tensors["classes"].zero_()), "a class twice"),
        (_tamper(lambda meta, tensors: tensors["means"][0].fill_(torch.nan)), "NaN or infinity in 'means'"),
        (_tamper(lambda meta, tensors: tensors.update(means=tensors["means"].float())), "'means' as torch.float32"),
        (
            _tamper(lambda meta, tensors: tensors.update({"scatter.matrix": tensors["scatter.matrix"][:, :2]})),
            r"'scatter.matrix' as torch.float64 \(3, 2, 4\); expected torch.float64 \(3, 4, 4\)",
        ),
        (_tamper(lambda meta, tensors: tensors.update(generator=tensors["generator"][:9])), "no generator state"),
    ],
)
def test_a_tampered_state_changes_nothing(tamper, message):
    memory = filled("full", *cloud())
    before, state = memory.state_dict(), filled("full", *cloud(seed=1)).state_dict()
    tamper(state)
    with pytest.raises(ValueError, match=message):
        memory.load_state_dict(state)
    assert same(before, memory.state_dict())
