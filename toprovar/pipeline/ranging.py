"""Measures what fixes the scales of fp8 graphs: dense generations of a few prompts on the model's own modules.

It is done where graphs for TensorRT are made, not in the calibration: only they need it, a calibration on a GPU runs on
a runtime without modules, and what was calibrated before stays good.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toprovar.compiler.tensorrt.float8 import input_scale
from toprovar.compiler.tensorrt.range_meter import RangeMeter
from toprovar.input_ranges import InputRanges
from toprovar.progress import Stages
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.session import Session

__all__ = ["measure_ranges"]


def measure_ranges(session: Session, prompts: Sequence[str | np.ndarray], stages: Stages) -> InputRanges:
    """Draws prompts densely, keeping one number of each large product.

    Args:
        session: on the model's own modules.
        prompts: what to draw.
        stages: told how far it is.

    Raises:
        UsageError: an input is not finite, or zero throughout.
    """
    backend = session.backend
    if not isinstance(backend, TorchBackend):
        raise TypeError(f"{backend.name} has no modules to watch")
    with RangeMeter(backend.loaded.backbone) as meter:
        for index, prompt in enumerate(prompts):
            session.run_scales(prompt, index)
            stages.progress("ranges", index + 1, len(prompts))
    largest = meter.largest()
    for module, value in largest.items():
        input_scale(value, module)  # refuses what has none, by its name
    shown = tuple(prompt if isinstance(prompt, str) else "features" for prompt in prompts)
    return InputRanges(backend.model.sha256, shown, len(backend.grids), largest)
