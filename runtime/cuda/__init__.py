"""Generation on a GPU: static buffers, fused kernels and one CUDA graph for every kind of scale.

`runtime` is what the torch backend talks to; `program` is one scale as a list of kernel calls, which runs with
`ops` (plain torch, any device) or `fused` (Triton); docs/runtime.md has the whole.
"""
