"""A Polygraphy runner for the modules that graphs were exported from."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from torch import nn

from toprovar.signature import Signature

__all__ = ["TorchRunner"]


class TorchRunner(BaseRunner):
    """Runs a module under its signature's names.

    Args:
        module: takes and returns tensors in the signature's order.
        contract: the names.
        example: inputs by name, for their types.
    """

    def __init__(self, module: nn.Module, contract: Signature, example: Mapping[str, np.ndarray]) -> None:
        super().__init__(name="torch", prefix="torch-runner")
        self._module = module
        self._contract = contract
        self._example = example

    def get_input_metadata_impl(self, use_numpy_dtypes: bool | None = None) -> TensorMetadata:
        """Names, types and shapes of the inputs, from the example."""
        metadata = TensorMetadata()
        for name in self._contract.inputs:
            metadata.add(name, dtype=self._example[name].dtype, shape=self._example[name].shape)
        return metadata

    def infer_impl(self, feed_dict: dict[str, np.ndarray]) -> OrderedDict[str, Any]:
        """Runs the module; outputs by name."""
        # ascontiguousarray would give a scalar an axis
        tensors = [torch.from_numpy(np.asarray(feed_dict[name], order="C")) for name in self._contract.inputs]
        started = time.perf_counter()
        with torch.inference_mode():
            outputs = self._module(*tensors)
        self.inference_time = time.perf_counter() - started
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return OrderedDict((name, tensor.numpy()) for name, tensor in zip(self._contract.outputs, outputs, strict=True))
