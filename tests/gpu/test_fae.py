"""FlashAttentionEntropy on a GPU: every kernel against float64, and what surrounds it."""

from __future__ import annotations

import math

import pytest
import torch

import toprovar.plugins.fae.torch_op  # noqa: F401  registers the operators
from toprovar.plugins.fae.reference import attention_with_entropy

from .driver import launch_ptx

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
HALVES = (torch.bfloat16, torch.float16)
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


def inputs(
    queries: int,
    keys: int,
    head_dim: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    *,
    batch: int = 2,
    heads: int = 3,
    layout: str = "blhd",
) -> Tensors:
    def one(rows: int) -> torch.Tensor:
        if layout == "blhd":
            return torch.randn(batch, rows, heads, head_dim, device="cuda").transpose(1, 2)
        if layout == "lbhd":
            return torch.randn(rows, batch, heads, head_dim, device="cuda").permute(1, 2, 0, 3)
        return torch.randn(batch, heads, rows, head_dim, device="cuda")

    torch.manual_seed(0)
    q, k, v = (one(rows) for rows in (queries, keys, keys))
    return (q * 3 / math.sqrt(head_dim)).to(dtype), k.to(dtype), v.to(dtype)


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.softmax(q @ k.transpose(-1, -2), -1)
    return weights @ v, -torch.special.xlogy(weights, weights).sum(-1)


def check(result: tuple[torch.Tensor, torch.Tensor], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """In float32 within 1e-5 of float64; in half types at most twice plain PyTorch's error."""
    exact = attention_with_entropy(q.double(), k.double(), v.double())
    for ours, theirs, truth in zip(result, plain(q, k, v), exact, strict=True):
        error = (ours.double() - truth).abs().max().item()
        allowed = 1e-5 if q.dtype == torch.float32 else 2 * (theirs.double() - truth).abs().max().item() + 1e-5
        assert error <= allowed


def kernels() -> list[object]:
    from toprovar.plugins.fae.configs import HopperConfig, TritonConfig

    return [TritonConfig(64, 64, 4, 2), *([HopperConfig(), HopperConfig(64, 4)] if HOPPER else [])]


def launch(q: torch.Tensor, *pieces: tuple[torch.Tensor, torch.Tensor], **options: object) -> tuple[torch.Tensor, ...]:
    from toprovar.plugins.fae.launcher import launch

    index = options.get("query_index")
    rows = q.shape[2] if index is None else index.shape[1]
    output = torch.full((*q.shape[:2], rows, q.shape[3]), math.nan, dtype=q.dtype, device="cuda")
    return launch(q, pieces, output, **options)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
@pytest.mark.parametrize("layout", ["bhld", "blhd", "lbhd"])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 21), (64, 128), (129, 127), (300, 1025)], ids=str)
def test_halves(queries: int, keys: int, layout: str, head_dim: int, dtype: torch.dtype) -> None:
    q, k, v = inputs(queries, keys, head_dim, dtype, layout=layout)
    for config in kernels():
        check(launch(q, (k, v), config=config), q, k, v)
    check(torch.ops.toprovar.flash_attention_entropy(q, k, v), q, k, v)


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
def test_float32_is_not_tf32(head_dim: int) -> None:
    q, k, v = inputs(70, 133, head_dim, torch.float32)
    check(torch.ops.toprovar.flash_attention_entropy(q, k, v), q, k, v)


def test_the_last_scale_of_infinity() -> None:
    q, k, v = inputs(4096, 10521, batch=1, heads=2)
    check(torch.ops.toprovar.flash_attention_entropy(q, k, v), q, k, v)


@pytest.mark.parametrize("sizes", [(1, 1), (640, 256), (1000, 77), (5, 640)], ids=str)
@pytest.mark.parametrize("gather", [False, True])
def test_two_pieces_and_gathered_queries(sizes: tuple[int, int], gather: bool) -> None:
    q, k, v = inputs(200, sum(sizes))
    index = torch.stack([torch.randperm(200, device="cuda")[:65] for _ in range(2)]) if gather else None
    pieces = list(zip(k.split(sizes, 2), v.split(sizes, 2), strict=True))
    kept = torch.stack([q[b, :, index[b]] for b in range(2)]) if gather else q
    for config in kernels():
        check(launch(q, *pieces, query_index=index, config=config), kept, k, v)
    whole = torch.ops.toprovar.flash_attention_entropy_cached(q, *pieces[0], *pieces[1], index, True)
    torch.testing.assert_close(
        whole[1].double(), attention_with_entropy(kept.double(), k.double(), v.double())[1].mean(1), rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("size", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("keys", [1, 128, 500])
def test_equal_scores(size: float, keys: int) -> None:
    q, k, v = inputs(70, keys)
    for config in kernels():
        _, entropy = launch(torch.full_like(q, size), (torch.full_like(k, 1 / 128), v), config=config)
        torch.testing.assert_close(entropy, torch.full_like(entropy, math.log(keys)), rtol=0, atol=1e-5)


def test_one_hot() -> None:
    q, k, v = inputs(70, 300)
    far = torch.zeros_like(k)
    far[:, :, 201] = 80
    for config in kernels():
        output, entropy = launch(torch.ones_like(q), (far, v), config=config)
        # The scaled maximum is rounded once, the fused multiply-add that subtracts it is not: the
        # one weight is 1 to the last bit, not always exactly 1.
        assert (entropy >= 0).all()
        assert (entropy <= 2**-22).all()
        assert torch.equal(output, v[:, :, 201:202].expand_as(output))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_non_finite_in_non_finite_out(place: str, value: float) -> None:
    for config in kernels():
        tensors = dict(zip("qkv", inputs(70, 300), strict=True))
        tensors[place][0, 1, 60, 4] = value
        output, entropy = launch(tensors["q"], (tensors["k"], tensors["v"]), config=config)
        assert not (torch.isfinite(output).all() and torch.isfinite(entropy).all())
        assert torch.isfinite(output[1]).all()
        assert torch.isfinite(entropy[1]).all()


def test_same_bits_every_time() -> None:
    q, k, v = inputs(500, 3000)
    for config in kernels():
        first = launch(q, (k, v), config=config)
        for _ in range(5):
            again = launch(q, (k, v), config=config)
            assert torch.equal(first[0], again[0])
            assert torch.equal(first[1], again[1])


def test_memory_is_far_below_the_score_matrix() -> None:
    q, k, v = inputs(2048, 8192, batch=2, heads=8)
    operator = torch.ops.toprovar.flash_attention_entropy
    operator(q, k, v)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output, entropy = operator(q, k, v)
    extra = torch.cuda.max_memory_allocated() - before - output.nbytes - entropy.nbytes
    assert extra < 0.01 * 2 * 8 * 2048 * 8192 * q.element_size()


def test_cuda_graph_and_compile() -> None:
    q, k, v = inputs(256, 777)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output, entropy = torch.ops.toprovar.flash_attention_entropy(q, k, v)
        return output * 2, entropy

    expected = attend(q, k, v)
    torch.testing.assert_close(torch.compile(attend, fullgraph=True)(q, k, v), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attend(q, k, v)
    q.neg_()
    graph.replay()
    torch.testing.assert_close(captured, attend(q, k, v))


def test_opcheck() -> None:
    q, k, v = inputs(33, 70, 64)
    torch.library.opcheck(torch.ops.toprovar.flash_attention_entropy.default, (q, k, v))


def test_an_unsupported_head_dim_says_what_to_do() -> None:
    q, k, v = inputs(5, 7, 80)
    with pytest.raises(ValueError, match=r"head_dim is 80, .*pad q, k and v"):
        torch.ops.toprovar.flash_attention_entropy(q, k, v)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
def test_ptx_of_every_tactic_launched_as_tensorrt_does(head_dim: int, dtype: str) -> None:
    """Inputs, extra integers, outputs, in an array of exactly that length."""
    from toprovar.plugins.fae.aot import compile_kernel, portable_configs

    q, k, v = (x.contiguous() for x in inputs(200, 333, head_dim, getattr(torch, dtype)))
    for config in portable_configs(head_dim, dtype):
        output = torch.full_like(q, math.nan)
        entropy = torch.full(q.shape[:3], math.nan, device="cuda")
        compiled = compile_kernel(head_dim, dtype, torch.cuda.get_device_capability(), config)
        grid = (-(-q.shape[2] // compiled.block_m), q.shape[0] * q.shape[1])
        arguments = (q, k, v, q.shape[2], k.shape[2], output, entropy)
        launch_ptx(compiled.ptx, compiled.name, grid, compiled.threads, compiled.shared_bytes, arguments)
        check((output, entropy), q, k, v)


def test_the_parser_resolves_the_node_to_the_plugin() -> None:
    trt = pytest.importorskip("tensorrt")
    import onnx

    import toprovar.plugins.fae.tensorrt_plugin  # noqa: F401  registers the plugin
    from toprovar.plugins.fae.onnx_function import OPSET, add_function
    from toprovar.plugins.fae.schema import SCHEMA

    half, single = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    info = onnx.helper.make_tensor_value_info
    sizes = {"q": [2, 4, 16, 64], "k": [2, 4, 50, 64], "v": [2, 4, 50, 64]}
    node = onnx.helper.make_node(
        SCHEMA.name, SCHEMA.input_names, SCHEMA.output_names, domain=SCHEMA.domain, **SCHEMA.plugin_attributes
    )
    outputs = [info("o", half, [2, 4, 16, 64]), info("entropy", single, [2, 4, 16])]
    graph = onnx.helper.make_graph([node], "g", [info(name, half, size) for name, size in sizes.items()], outputs)
    imports = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(SCHEMA.domain, SCHEMA.version)]
    model = add_function(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10))

    logger = trt.Logger(trt.Logger.ERROR)
    flags = trt.NetworkDefinitionCreationFlag
    network = trt.Builder(logger).create_network(
        1 << int(flags.STRONGLY_TYPED) | 1 << int(flags.PREFER_AOT_PYTHON_PLUGINS)
    )
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert [network.get_layer(i).type for i in range(network.num_layers)] == [trt.LayerType.PLUGIN_V3]
    results = {network.get_output(i).name: network.get_output(i) for i in range(network.num_outputs)}
    assert (tuple(results["o"].shape), results["o"].dtype) == ((2, 4, 16, 64), trt.DataType.BF16)
    assert (tuple(results["entropy"].shape), results["entropy"].dtype) == ((2, 4, 16), trt.DataType.FLOAT)
