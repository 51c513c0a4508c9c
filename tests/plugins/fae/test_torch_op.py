"""The torch operators: schema, meta functions, compilation, export, layouts and refusals."""

from __future__ import annotations

import pytest
import torch

from toprovar.plugins.fae.reference import attention_with_entropy
from toprovar.plugins.fae.torch_op import flash_attention_entropy, flash_attention_entropy_cached

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Attention(torch.nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output, entropy = torch.ops.toprovar.flash_attention_entropy(q, k, v)
        return output * 2, entropy


def inputs(queries: int = 7, keys: int = 9, dtype: torch.dtype = torch.float32, batch: int = 2) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, 4, n, 32, generator=generator).to(dtype) for n in (queries, keys, keys))
    return q, k, v


def blhd(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", ["bhld", "blhd", "fused"])
def test_opcheck(dtype: torch.dtype, layout: str) -> None:
    q, k, v = inputs(9, 9, dtype)
    if layout == "blhd":
        q, k, v = blhd(q), blhd(k), blhd(v)
    elif layout == "fused":
        q, k, v = torch.stack([x.transpose(1, 2) for x in (q, k, v)], 2).permute(2, 0, 3, 1, 4).unbind(0)
    torch.library.opcheck(torch.ops.toprovar.flash_attention_entropy.default, (q, k, v))


@pytest.mark.parametrize("head_mean", [False, True])
@pytest.mark.parametrize("gather", [False, True])
def test_opcheck_cached(gather: bool, head_mean: bool) -> None:
    q, k, v = inputs()
    index = torch.tensor([[0, 2, 6], [3, 3, 1]]) if gather else None
    arguments = (blhd(q), k, v, k[:, :, :4], v[:, :, :4], index, head_mean)
    torch.library.opcheck(torch.ops.toprovar.flash_attention_entropy_cached.default, arguments)


def test_is_the_reference_in_the_layout_of_the_queries() -> None:
    q, k, v = inputs()
    for queries in (q, blhd(q), q.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)):
        output, entropy = flash_attention_entropy(queries, k, v)
        expected = attention_with_entropy(q, k, v)
        torch.testing.assert_close((output, entropy), expected, rtol=0, atol=1e-6)
        assert output.stride() == queries.stride()


def test_cached_is_the_whole() -> None:
    q, k, v = inputs(batch=2)
    output, entropy = flash_attention_entropy_cached(q, k[:, :, :6], v[:, :, :6], k[:, :, 6:], v[:, :, 6:])
    torch.testing.assert_close((output, entropy), attention_with_entropy(q, k, v), rtol=0, atol=1e-6)


def test_gathered_queries_and_head_mean() -> None:
    q, k, v = inputs()
    index = torch.tensor([[0, 2, 6], [3, 3, 1]], dtype=torch.int32)
    pieces = (k[:, :, :6], v[:, :, :6], k[:, :, 6:], v[:, :, 6:])
    output, entropy = flash_attention_entropy_cached(blhd(q), *pieces, index, head_mean=True)
    kept = torch.stack([q[b, :, index[b].long()] for b in range(2)])
    expected = attention_with_entropy(kept, k, v)
    torch.testing.assert_close(output, expected[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(entropy, expected[1].mean(1), rtol=0, atol=1e-6)
    # Memory is [batch, kept, heads, head_dim], as that of the queries: a projection needs no copy.
    assert output.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool) -> None:
    compiled = torch.compile(Attention(), fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for keys in (9, 11):
        tensors = inputs(keys=keys)
        torch.testing.assert_close(compiled(*tensors), Attention()(*tensors))


def test_export_keeps_the_operator_and_dynamic_lengths() -> None:
    auto = torch.export.Dim.AUTO
    shapes = {name: {0: auto, 2: auto} for name in "qkv"}
    program = torch.export.export(Attention(), inputs(), dynamic_shapes=shapes)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch.ops.toprovar.flash_attention_entropy.default in targets
    tensors = inputs(5, 12, batch=3)
    torch.testing.assert_close(program.module()(*tensors), Attention()(*tensors))


def test_shapes_without_data() -> None:
    q, k, v = (x.to("meta") for x in inputs(dtype=torch.float16))
    output, entropy = flash_attention_entropy(q, k, v)
    assert (output.shape, output.dtype) == (q.shape, torch.float16)
    assert (entropy.shape, entropy.dtype) == (q.shape[:3], torch.float32)


def test_refusals() -> None:
    q, k, v = inputs()
    with pytest.raises(TypeError, match="must share one dtype"):
        flash_attention_entropy(q, k.half(), v)
    with pytest.raises(TypeError, match=r"torch\.int32, but FlashAttentionEntropy needs one of"):
        flash_attention_entropy(q.int(), k.int(), v.int())
    with pytest.raises(ValueError, match="one value a key"):
        flash_attention_entropy(q, k, v[:, :, :3])
    with pytest.raises(TypeError, match="must be int32 or int64"):
        flash_attention_entropy_cached(q, k, v, k, v, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="a row of query positions an image"):
        flash_attention_entropy_cached(q, k, v, k, v, torch.zeros(3, dtype=torch.long))
