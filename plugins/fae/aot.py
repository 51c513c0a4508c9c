"""Compile the Triton kernel to PTX for launchers that know nothing of Triton.

TensorRT embeds the PTX in an engine and launches it with the input pointers, then the extra
integers, then the output pointers, which is the order of ``kernel.contiguous_kernel``. No
GPU is needed to compile.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from toprovar.plugins.fae import kernel
from toprovar.plugins.fae.configs import TritonConfig
from toprovar.plugins.fae.schema import HEAD_DIMS

__all__ = ["CompiledKernel", "compile_kernel", "portable_configs"]

_TYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_PTX_VERSION = 84  # CUDA 12.4
_ENTRY = re.compile(r"(\.entry\s+\w+\(\n)(.*?)(\n\))", re.DOTALL)


@dataclass(frozen=True)
class CompiledKernel:
    """PTX and how to launch it.

    The grid is (ceil(queries / block_m), batch * heads, 1); the parameters are the pointers
    q, k, v, the 32-bit integers queries, keys, and the pointers o, entropy.

    Attributes:
        name: Entry point.
        ptx: Text of the kernel.
        block_m: Queries a program.
        threads: Threads a program.
        shared_bytes: Dynamic shared memory a program, at most 48 KiB.
    """

    name: str
    ptx: str
    block_m: int
    threads: int
    shared_bytes: int


def portable_configs(head_dim: int, dtype: str) -> tuple[TritonConfig, ...]:
    """Tiles that stay within 48 KiB of shared memory, which needs no opt-in to launch.

    TensorRT times them and takes the fastest; the first is the one to take untimed.
    """
    if dtype == "float32":
        block_m = 64 if head_dim <= 32 else 16
        return (TritonConfig(block_m, 32, 4, 1), TritonConfig(block_m, 16, 4, 1))
    if head_dim <= 64:
        return (
            TritonConfig(64, 64, 4, 2),
            TritonConfig(128, 64, 8, 2),
            TritonConfig(128, 64, 4, 2),
            TritonConfig(64, 128, 4, 1),
        )
    return (
        TritonConfig(64, 32, 4, 2),
        TritonConfig(64, 64, 4, 1),
        TritonConfig(128, 32, 8, 1),
        TritonConfig(128, 32, 4, 1),
    )


def compile_kernel(
    head_dim: int, dtype: str, capability: tuple[int, int], config: TritonConfig | None = None
) -> CompiledKernel:
    """Compile for one head dimension, element type and architecture.

    Args:
        head_dim: One of ``HEAD_DIMS``.
        dtype: "float32", "float16" or "bfloat16".
        capability: Compute capability, for example (9, 0).
        config: Tiles; the first of ``portable_configs`` if left out.

    Returns:
        The compiled kernel.

    Raises:
        ValueError: The head dimension or the element type has no kernel.
        RuntimeError: This Triton's kernels need scratch memory that such a launcher
            does not give.
    """
    if head_dim not in HEAD_DIMS:
        raise ValueError(f"head_dim is {head_dim}, but the kernel is built for {HEAD_DIMS}")
    if dtype not in _TYPES:
        raise ValueError(f"dtype is {dtype!r}, but the kernel is built for {tuple(_TYPES)}")
    config = config or portable_configs(head_dim, dtype)[0]
    element = f"*{_TYPES[dtype]}"
    constants = {
        "HEAD_DIM": head_dim,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
    }
    arguments = {
        "q": element, "k": element, "v": element, "queries": "i32", "keys": "i32",
        "o": element, "entropy": "*fp32",
    }  # fmt: skip
    names = kernel.contiguous_kernel.arg_names
    pointers = [name for name, kind in arguments.items() if kind.startswith("*")]
    source = ASTSource(
        fn=kernel.contiguous_kernel,
        signature={name: arguments.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in pointers},
    )
    options = {
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
        "enable_fp_fusion": True,
    }
    if capability < (10, 0):
        # The driver that compiles the PTX may be older than the toolkit that Triton finds.
        options["ptx_version"] = _PTX_VERSION
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    compiled = triton.compile(source, target=target, options=options)
    return CompiledKernel(
        name=compiled.metadata.name,
        ptx=_without_scratch(compiled.asm["ptx"], len(arguments)),
        block_m=config.block_m,
        threads=32 * config.num_warps,
        shared_bytes=compiled.metadata.shared,
    )


def _without_scratch(ptx: str, count: int) -> str:
    """Cut the entry's parameters to ``count``.

    Triton appends pointers to scratch memory, which this kernel does not use. A launcher that
    passes only what it knows of would let the driver read past its array of parameters.
    """
    match = _ENTRY.search(ptx)
    if match is None:
        raise RuntimeError("Triton's PTX has no entry point in the expected form")
    parameters = match.group(2).split(",\n")
    body = ptx[match.end() :]
    for parameter in parameters[count:]:
        name = parameter.split()[-1]
        if re.search(rf"\b{name}\b", body):
            raise RuntimeError(
                f"the kernel uses the parameter {name} that this version of Triton "
                f"({triton.__version__}) appends, and that TensorRT does not pass"
            )
    return ptx[: match.start(2)] + ",\n".join(parameters[:count]) + ptx[match.end(2) :]
