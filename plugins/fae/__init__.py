"""FlashAttentionEntropy: attention and its entropy in one pass.

``schema`` states the contract; ``reference`` is the plain version; ``torch_op`` registers
the torch operators (import it before ``torch.ops.toprovar`` is used); ``kernel`` and
``configs`` hold the Triton kernel and its tiles; ``onnx_function`` the ONNX body;
``tensorrt_plugin`` the TensorRT plugin. This package imports only ``schema`` itself.
"""

from toprovar.plugins.fae.schema import SCHEMA

__all__ = ["SCHEMA"]
