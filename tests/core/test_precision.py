import warnings

import pytest
import torch
from accelerate.state import AcceleratorState

from memreplay.core import precision, training


def test_what_the_machine_says_is_a_yes_or_a_no() -> None:
    assert precision.has_bf16() in (True, False)


@pytest.mark.skipif(
    torch.accelerator.is_available(), reason="the processor is asked only where there is no accelerator"
)
@pytest.mark.parametrize("has", [True, False])
def test_the_processor_is_asked(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has)
    assert precision.has_bf16() is (has and torch.backends.mkldnn.is_available())


@pytest.mark.parametrize(("wanted", "has", "warned"), [("bf16", False, 1), ("bf16", True, 0), ("no", False, 0)])
def test_imitated_precision_is_warned_of(wanted: str, has: bool, warned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "has_bf16", lambda: has)
    AcceleratorState._reset_state()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        training.new_accelerator(mixed_precision=wanted)
    AcceleratorState._reset_state()
    assert sum("mixed_precision is 'bf16', which this machine only imitates" in str(w.message) for w in found) == warned
