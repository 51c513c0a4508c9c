"""How near images are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from toprovar.evaluation.fidelity import MOST_PSNR, pooled_psnr, psnr


def test_psnr() -> None:
    image = np.random.default_rng(1).uniform(-1, 1, (3, 8, 8)).astype(np.float32)
    assert math.isinf(psnr(image, image))
    assert psnr(np.ones((3, 2, 2)), -np.ones((3, 2, 2))) == pytest.approx(0)
    assert psnr(image, image + 0.02) == pytest.approx(40, abs=1e-3)


def test_a_ruined_image_is_not_paid_for_by_one_left_as_it_was() -> None:
    assert pooled_psnr([40.0, 40.0]) == pytest.approx(40)
    assert pooled_psnr([MOST_PSNR, 20.0]) == pytest.approx(20 + 10 * math.log10(2))
