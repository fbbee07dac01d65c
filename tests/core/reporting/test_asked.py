import pytest

from memreplay.core.reporting.asked import check_asked


def test_unknown_names_and_no_seed() -> None:
    check_asked([], {"a": 1, "b": 2})
    check_asked(["b"], ["a", "b"], 1)
    with pytest.raises(ValueError, match=r"^only is 'x'; expected one of a, b$"):
        check_asked(["a", "x"], ["a", "b", "a"])
    with pytest.raises(ValueError, match=r"^seeds is 0; expected at least 1$"):
        check_asked([], {"a": 1}, 0)
