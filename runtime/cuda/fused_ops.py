"""Every step of a scale with Triton kernels and cuBLAS."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from toprovar.plugins.fae.configs import HopperConfig, TritonConfig, choose_config
from toprovar.plugins.fae.launcher import launch
from toprovar.runtime.cuda.kernels import rank
from toprovar.runtime.cuda.kernels.attend_text import attend_text
from toprovar.runtime.cuda.kernels.fold_text import FEW, fold, weigh, weigh_few
from toprovar.runtime.cuda.kernels.restore import restore
from toprovar.runtime.cuda.kernels.rotate_and_store import rotate_and_store
from toprovar.runtime.cuda.kernels.round_rows import round_rows
from toprovar.runtime.cuda.kernels.sample import sample
from toprovar.runtime.cuda.kernels.update_norm import update_norm
from toprovar.runtime.cuda.ops import Branch, Norm, PlainOps, ResizeTables, Sampling
from toprovar.runtime.cuda.rows import Rows
from toprovar.runtime.cuda.scaled import Scaled, ScaledLinear
from toprovar.runtime.cuda.text_buffer import FoldedText, KeptText
from toprovar.runtime.cuda.weights import Linear

__all__ = ["FusedOps"]

_ALIGNED = 16


@functools.cache
def _device(index: int) -> tuple[tuple[int, int], int]:
    properties = torch.cuda.get_device_properties(index)
    return (properties.major, properties.minor), properties.multi_processor_count


class FusedOps(PlainOps):
    """`PlainOps` in few passes; on a CPU, in Triton's interpreter, products and attention stay plain."""

    def __init__(self) -> None:
        self._exact: set[tuple[int, ...]] = set()
        self._tables: dict[tuple[int, ...], Tensor] = {}

    def gelu_linear(self, x: Tensor, layer: Linear, out: Tensor) -> Tensor:
        """GELU in the product's epilogue."""
        if not x.is_cuda:
            return super().gelu_linear(x, layer, out)
        return torch.ops.aten._addmm_activation.out(layer.bias, x, layer.weight.t(), use_gelu=True, out=out)

    def scaled_linear(self, x: Scaled, layer: ScaledLinear, out: Tensor) -> Tensor:
        """With fast accumulation, whose error is far below that of rounding the operands."""
        if not x.values.is_cuda:
            return super().scaled_linear(x, layer, out)
        shape = *x.values.shape, len(layer.bias)
        if shape not in self._exact:
            try:
                return _scaled_product(x, layer, out, fast=True)
            except RuntimeError as error:
                # cuBLAS has no such product with a bias for some shapes of few rows, and says so before it launches.
                if "CUBLAS_STATUS_NOT_SUPPORTED" not in str(error):
                    raise
                self._exact.add(shape)
        return _scaled_product(x, layer, out, fast=False)

    def round(self, x: Tensor, out: Scaled) -> None:
        """One pass."""
        round_rows(x, out, gelu=False)

    def gelu_round(self, x: Tensor, out: Scaled) -> None:
        """One pass."""
        round_rows(x, out, gelu=True)

    def logits(self, x: Tensor, head: Linear) -> Tensor:
        """Accumulated and kept in fp32."""
        if not x.is_cuda or x.dtype == torch.float32:
            return super().logits(x, head)
        return torch.mm(x, head.weight.t(), out_dtype=torch.float32) + head.bias

    def update_norm(
        self, x: Tensor, branch: Branch | None, rows: Rows, norm: Norm | None, out: Tensor | Scaled | None
    ) -> None:
        """One pass."""
        update_norm(
            x,
            rows.order,
            rows.kept,
            rows.halves,
            branch.values if branch else None,
            branch.gain if branch else None,
            (norm.scale, norm.shift) if norm else None,
            bool(norm and norm.modulated),
            out,
        )

    def rotate_and_store(
        self, qkv: Tensor, gain: Tensor, rope: Tensor, rows: Rows, keys: Tensor, values: Tensor, past: int
    ) -> None:
        """One pass."""
        rotate_and_store(qkv, gain, rope, rows.order, rows.halves, keys, values, past)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, out: Tensor, images: int) -> None:
        """FlashAttentionEntropy's kernel without the entropy."""
        if not query.is_cuda:
            super().attend(query, keys, values, out, images)
            return
        nats = query.new_empty(query.shape[:3], dtype=torch.float32)
        config = self._config(query, keys, images)
        launch(query, ((keys, values),), out.transpose(1, 2), entropy=False, nats=nats, config=config)

    def attend_with_entropy(self, query: Tensor, keys: Tensor, values: Tensor, out: Tensor, images: int) -> Tensor:
        """FlashAttentionEntropy."""
        if not query.is_cuda:
            return super().attend_with_entropy(query, keys, values, out, images)
        config = self._config(query, keys, images)
        return launch(query, ((keys, values),), out.transpose(1, 2), config=config)[1]

    def _config(self, query: Tensor, keys: Tensor, images: int) -> TritonConfig | HopperConfig:
        """Tiles as for one image, so that an image does not depend on its batch."""
        rows, heads, kept, dim = query.shape
        capability, processors = _device(query.device.index)
        return choose_config(
            rows // images * heads, kept, keys.shape[2], dim, query.element_size(), capability, processors
        )

    def attend_text(self, query: Tensor, text: KeptText, out: Tensor) -> None:
        """Only as many keys as a row has."""
        attend_text(query, text.keys, text.values, text.lengths, out)

    def score_text(self, x: Tensor, text: FoldedText, scores: Tensor) -> None:
        """A product and a pass, or for few tokens one launch."""
        if x.shape[1] > FEW:
            super().score_text(x, text, scores)
        else:
            weigh_few(x, text.keys, text.bias, (x.shape[2] // text.bias.shape[1]) ** -0.5, scores)

    def weigh(self, scores: Tensor, bias: Tensor, scale: float) -> None:
        """One pass."""
        weigh(scores, bias, scale)

    def fold(self, text: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] | None, out: Tensor) -> None:
        """One launch, which reads addresses: matrices of different layers lie anywhere."""
        if any(weight.data_ptr() % _ALIGNED for weight in weights):
            super().fold(text, weights, biases, out)
            return
        added = None if biases is None else self._addresses(biases)
        fold(text, self._addresses(weights), weights[0].stride(), added, out)

    def _addresses(self, tensors: Sequence[Tensor]) -> Tensor:
        """int64, on the tensors' device; made when first asked for, since a graph could not copy them there."""
        own = tuple(tensor.data_ptr() for tensor in tensors)
        if own not in self._tables:
            self._tables[own] = torch.tensor(own, device=tensors[0].device)
        return self._tables[own]

    def order(self, values: Tensor) -> Tensor:
        """By counting."""
        return rank.order(values)

    def deviation(self, x: Tensor) -> Tensor:
        """One pass after the mean."""
        return rank.deviation(x)

    def restore(self, x: Tensor, update: Tensor, rows: Rows, tables: ResizeTables) -> None:
        """Only the tokens that need it."""
        grid = tables.rows.shape[1], tables.columns.shape[1]
        neighbours = tables.row_low, tables.row_weight, tables.column_low, tables.column_weight
        restore(x, update, rows.order, rows.kept, rows.halves, *neighbours, grid)

    def sample(
        self, logits: Tensor, sampling: Sampling, guided: bool, height: int, factor: int, bits: Tensor
    ) -> Tensor:
        """From logits to codes in one pass."""
        return sample(logits, sampling.noise, sampling.scalars, guided, height, factor, bits)


def _scaled_product(x: Scaled, layer: ScaledLinear, out: Tensor, fast: bool) -> Tensor:
    weight = layer.weight
    return torch.ops.aten._scaled_mm.out(
        x.values, weight.values.t(), x.column, weight.column.t(), layer.bias, None, out.dtype, fast, out=out
    )
