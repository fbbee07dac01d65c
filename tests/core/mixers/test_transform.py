from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memreplay.core.mixers import FeatureNoise, RandomAffine, RandomElastic
from memreplay.core.mixers.transform import affine


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 2, size: tuple[int, int] = (6, 6)) -> Tensor:
    return torch.rand(n, 3, *size, generator=generator(), dtype=torch.float64)


def moved(values: Tensor, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0) -> Tensor:
    n = len(values)
    return affine(
        values,
        angle=torch.full((n,), angle, dtype=torch.float64),
        shift=torch.tensor([shift] * n, dtype=torch.float64),
        scale=torch.full((n,), scale, dtype=torch.float64),
    )


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_anticlockwise(quarters):
    values = images()
    torch.testing.assert_close(moved(values, angle=quarters * math.pi / 2), values.rot90(quarters, (2, 3)))


def test_a_half_turn_of_an_oblong_image():
    values = images(size=(4, 7))
    torch.testing.assert_close(moved(values, angle=math.pi), values.flip(2, 3))


def test_a_quarter_turn_keeps_pixels_square():
    values = torch.zeros(1, 1, 5, 9, dtype=torch.float64)
    values[0, 0, 2, 6] = 1.0  # two to the right of the centre: afterwards two above it
    expected = torch.zeros_like(values)
    expected[0, 0, 0, 4] = 1.0
    torch.testing.assert_close(moved(values, angle=math.pi / 2), expected)


def test_shifts_move_right_and_down_by_fractions():
    values = images(size=(4, 8))
    expected = torch.zeros_like(values)
    expected[:, :, 1:, 2:] = values[:, :, :-1, :-2]
    torch.testing.assert_close(moved(values, shift=(2 / 8, 1 / 4)), expected)


def test_a_shift_comes_after_the_turn():
    values = images()
    expected = torch.zeros_like(values)
    expected[:, :, :, 1:] = values.rot90(1, (2, 3))[:, :, :, :-1]
    torch.testing.assert_close(moved(values, angle=math.pi / 2, shift=(1 / 6, 0.0)), expected)


def test_a_factor_of_three_shows_the_centre_enlarged():
    values = images(size=(9, 9))
    # the centre of every 3x3 block of the output is a pixel of the middle third
    torch.testing.assert_close(moved(values, scale=3.0)[:, :, 1::3, 1::3], values[:, :, 3:6, 3:6])


def test_random_affine_without_range_changes_nothing():
    rows = {"input": images(), "label": torch.arange(2)}
    found = RandomAffine(degrees=0, translate=0, scale=(1, 1))(rows, generator())
    torch.testing.assert_close(found["input"], rows["input"])
    assert found["label"] is rows["label"]
    assert list(found) == ["input", "label"]


def test_random_affine_stays_within_its_ranges():
    n = 200
    point = torch.zeros(n, 1, 41, 41, dtype=torch.float64)
    point[:, :, 20, 20] = 1.0
    found = RandomAffine(degrees=0, translate=0.25, scale=(1, 1))({"input": point}, generator())["input"]
    axis = torch.arange(41.0, dtype=torch.float64)
    right = (found.sum((1, 2)) * axis).sum(1) / found.sum((1, 2, 3)) - 20
    down = (found.sum((1, 3)) * axis).sum(1) / found.sum((1, 2, 3)) - 20
    for shift in (right, down):
        assert shift.abs().max() <= 0.25 * 41 + 1e-6
        assert shift.min() < -8
        assert shift.max() > 8
    assert abs(torch.corrcoef(torch.stack([right, down]))[0, 1]) < 0.2


def test_random_affine_depends_on_its_generator_alone():
    rows = {"image": images()}
    transform = RandomAffine(column="image")
    before = torch.get_rng_state()
    first = transform(rows, generator(1))["image"]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, transform(rows, generator(1))["image"])
    assert not torch.equal(first, transform(rows, generator(2))["image"])
    assert torch.equal(rows["image"], images())
    assert not torch.equal(first[0] - rows["image"][0], first[1] - rows["image"][1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_random_affine_keeps_the_dtype(dtype):
    rows = {"input": (images() * 255).to(dtype)}
    found = RandomAffine(padding="border")(rows, generator())["input"]
    assert found.dtype == dtype
    assert found.shape == rows["input"].shape
    exact = RandomAffine(padding="border")({"input": rows["input"].double()}, generator())["input"]
    tolerance = {torch.uint8: 0.51, torch.bfloat16: 1.01}.get(dtype, 0.13)
    assert (found.double() - exact).abs().max() < tolerance


def test_feature_noise_has_the_deviation_asked_for():
    rows = {"feature": torch.ones(5000, 4), "label": torch.arange(5000)}
    before = torch.get_rng_state()
    found = FeatureNoise(0.3)(rows, generator())
    assert torch.equal(torch.get_rng_state(), before)
    noise = found["feature"] - 1
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.01)
    assert torch.equal(found["feature"], FeatureNoise(0.3)(rows, generator())["feature"])
    assert torch.equal(rows["feature"], torch.ones(5000, 4))
    assert torch.equal(FeatureNoise(0.0)(rows, generator())["feature"], rows["feature"])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="degrees is -1"):
        RandomAffine(degrees=-1)
    with pytest.raises(ValueError, match=r"translate is -0\.1"):
        RandomAffine(translate=-0.1)
    with pytest.raises(ValueError, match=r"scale is \(1\.1, 0\.9\)"):
        RandomAffine(scale=(1.1, 0.9))
    with pytest.raises(ValueError, match="padding is 'wrap'"):
        RandomAffine(padding="wrap")
    with pytest.raises(ValueError, match="std is -1"):
        FeatureNoise(-1)
    with pytest.raises(KeyError, match=r"column 'input' is missing; the rows have \['label'\]"):
        RandomAffine()({"label": torch.arange(2)}, generator())
    with pytest.raises(ValueError, match="column 'input' has 2 dimensions; expected images"):
        RandomAffine()({"input": torch.zeros(2, 3)}, generator())
    with pytest.raises(ValueError, match=r"column 'feature' is torch.int64; expected a floating point dtype"):
        FeatureNoise(0.1)({"feature": torch.zeros(2, dtype=torch.int64)}, generator())


def test_elastic_without_a_shift_changes_nothing():
    values = images(3, (5, 8))
    torch.testing.assert_close(RandomElastic(shift=0.0)({"input": values}, generator())["input"], values)


def test_elastic_displacements_have_the_deviation_given_everywhere_and_are_smooth():
    ramp = torch.arange(24.0).expand(1, 24, 24)  # a pixel's value tells where it comes from, in columns
    rows = {"input": torch.stack([ramp, ramp.transpose(1, 2)], 1).expand(4000, -1, -1, -1)}
    moved = RandomElastic(shift=0.03, smooth=0.15, padding="border")(rows, generator())["input"] - rows["input"]
    inner = moved[:, :, 4:-4, 4:-4]  # where a displacement does not leave the image
    assert inner.mean().abs() < 0.02
    torch.testing.assert_close(inner.std(0), torch.full_like(inner[0], 0.03 * 24), rtol=0.06, atol=0)
    neighbours = (inner[..., 1:] * inner[..., :-1]).mean() / inner.square().mean()
    assert neighbours > 0.97  # exp(-(1 / (0.15 * 24))^2 / 4) = 0.98
    assert (inner[:, 0] * inner[:, 1]).mean().abs() < 0.02  # to the right and down are independent


def test_elastic_bends_every_image_in_its_own_way_by_the_generator_alone():
    rows = {"input": images(1).expand(2, -1, -1, -1), "label": torch.tensor([1, 2])}
    before = torch.get_rng_state()
    first, again, other = (RandomElastic()(rows, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first["input"], again["input"])
    assert not torch.equal(first["input"], other["input"])
    assert not torch.equal(first["input"][0], first["input"][1])
    assert torch.equal(first["label"], rows["label"])


def test_elastic_keeps_whole_numbers_whole():
    rows = {"input": (255 * images()).to(torch.uint8)}
    assert RandomElastic()(rows, generator())["input"].dtype is torch.uint8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shift": -0.1}, "shift is -0.1; expected a number of at least 0"),
        ({"smooth": 0.0}, "smooth is 0.0; expected a number above 0"),
        ({"padding": "wrap"}, "padding is 'wrap'; expected 'zeros', 'border' or 'reflection'"),
    ],
)
def test_elastic_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomElastic(**arguments)


def test_elastic_needs_images():
    with pytest.raises(ValueError, match=r"column 'input' has 2 dimensions; expected images \(B, C, H, W\)"):
        RandomElastic()({"input": torch.zeros(2, 3)}, generator())
