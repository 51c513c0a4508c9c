"""Global and Detail layers."""

from __future__ import annotations

import pytest

from toprovar.calibration.taxonomy import layer_kinds


@pytest.mark.parametrize(
    ("ratios", "kinds"),
    [
        ((0.1, 0.9, 0.5, 0.6), ("detail", "global", "detail", "global")),
        ((0.1, 0.5, 0.9), ("detail", "detail", "global")),
        ((0.2, 0.2, 0.3), ("detail", "detail", "global")),
        ((0.2, 0.3, 0.3), ("detail", "detail", "detail")),
        ((1.0, 1.0), (None, None)),
        ((0.4,), (None,)),
        ((), ()),
    ],
)
def test_the_median_parts_them(ratios: tuple[float, ...], kinds: tuple[str | None, ...]) -> None:
    assert layer_kinds(ratios) == kinds
