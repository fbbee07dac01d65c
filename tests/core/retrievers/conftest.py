from __future__ import annotations

import pytest

from memreplay.core.retrievers import scan


@pytest.fixture(params=["compiled", "torch"])
def loops(request, monkeypatch):
    """Runs a test with the compiled loops, where they are built, and without."""
    if request.param == "torch":
        monkeypatch.setattr(scan, "compiled", None)
    elif scan.compiled is None:
        pytest.skip("no C compiler built _scan.c")
