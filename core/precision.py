"""Precision: what a machine computes with, and what it only imitates."""

from __future__ import annotations

import torch


def has_bf16() -> bool:
    """Whether bfloat16 is fast here: on the accelerator, or else by the processor's own instructions.

    A processor without them imitates bfloat16, and takes ten to fifty times as long as with float32.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.accelerator.is_available():
        return True
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
