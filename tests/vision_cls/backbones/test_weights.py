from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from memreplay.vision_cls.backbones.weights import load_weights, read_weights


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["", "module.encoder.", "backbone.", "body."])
def test_weights_of_checkpoints(suffix: str, prefix: str, tmp_path: Path) -> None:
    source = network()
    nn.init.normal_(source[1].running_mean)  # type: ignore[arg-type]
    state = {f"{prefix}{name}": values for name, values in source.half().state_dict().items()}
    del state[f"{prefix}1.num_batches_tracked"]
    state |= {f"{prefix}fc.weight": torch.zeros(2, 3), "other.weight": torch.zeros(1)} if prefix else {}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        save_file(state, path)
    copy = network()
    load_weights(copy, path, ignore="fc.")
    assert copy[0].weight.dtype == torch.float32
    for name, values in copy.state_dict().items():
        torch.testing.assert_close(values, source.state_dict()[name].to(values.dtype))


def test_weights_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for change in ({"0.weight": torch.zeros(3, 4)}, {"2.weight": torch.zeros(1)}):
        torch.save({**network().state_dict(), **change}, path)
        copy = network()
        before = copy[0].weight.clone()
        with pytest.raises(ValueError, match="other weights than the model"):
            load_weights(copy, path)
        assert torch.equal(copy[0].weight, before)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no state dict"):
        read_weights(path)
    with pytest.raises(ValueError, match="which is no file"):
        read_weights(tmp_path / "nothing.pth")
