"""Custom operators: one folder an operator, each with its schema, reference and kernels.

Importing this package imports none of them, nor torch, Triton, ONNX or TensorRT.
"""

__all__: list[str] = []
