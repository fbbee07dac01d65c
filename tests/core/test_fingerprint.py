import copy

import torch
from torch import nn

from memreplay.core.fingerprint import fingerprint


def test_it_depends_on_every_weight_buffer_name_and_dtype() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    same = copy.deepcopy(model)
    assert fingerprint(model) == fingerprint(same)
    changed = [copy.deepcopy(model) for _ in range(3)]
    with torch.no_grad():
        changed[0][0].bias[1] += 1e-3
        changed[1][1].running_mean[0] += 1e-3
    changed[2][0].double()
    renamed = nn.Sequential()
    for name, part in zip("ab", model, strict=True):
        renamed.add_module(name, part)
    assert len({fingerprint(other) for other in [model, *changed, renamed]}) == 5
    assert len({fingerprint(model, text) for text in ("", "size 84", "size 96")}) == 3
