"""FlashAttentionEntropy in ONNX: the node, and a function body for runtimes without it.

An exported model holds the node ``toprovar::FlashAttentionEntropy`` with the two attributes
by which TensorRT finds the plugin, and a model-local function of the same name. ONNX
Runtime inlines the function; TensorRT's parser prefers the plugin.

    program = torch.onnx.export(module, args, dynamo=True,
                                custom_translation_table=translation_table())
    add_function(program.model)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from toprovar.plugins.fae import schema as schema_module
from toprovar.plugins.fae.schema import SCHEMA, TensorSpec

if TYPE_CHECKING:
    import onnx
    import onnx.defs
    import onnx_ir

__all__ = ["OPSET", "add_function", "function_proto", "op_schema", "translation_table"]

#: The oldest ONNX opset that the body runs in.
OPSET = 18

ModelT = TypeVar("ModelT", "onnx.ModelProto", "onnx_ir.Model")

# LogSoftmax leaves four passes over the score matrix. On two CPU cores in ONNX Runtime 1.32
# it takes 74 ms at (2, 4, 1024 x 2521, 64), where attention alone takes 54; max, Sub, Exp
# and two sums take 75 there but more at smaller shapes, Log(Softmax) 93, and the forms that
# subtract sum(P * S) from the log-sum-exp lose digits to cancellation.
_BODY = """
<domain: "{domain}", opset_import: ["" : {opset}]>
{name} <{attributes}> (q, k, v) => (o, entropy)
{{
    qf = Cast <to = 1> (q)
    kf = Cast <to = 1> (k)
    vf = Cast <to = 1> (v)
    kt = Transpose <perm = [0, 1, 3, 2]> (kf)
    scores = MatMul (qf, kt)
    log_weights = LogSoftmax <axis = -1> (scores)
    weights = Exp (log_weights)
    of = MatMul (weights, vf)
    o = CastLike (of, q)
    terms = Mul (weights, log_weights)
    last = Constant <value_ints = [-1]> ()
    negative = ReduceSum <keepdims = 0> (terms, last)
    entropy = Neg (negative)
}}
"""


def function_proto(opset: int = OPSET) -> onnx.FunctionProto:
    """Build the body of the operator out of standard ONNX operators.

    Args:
        opset: ONNX opset of the body, at least ``OPSET``; a model's functions should use
            the model's own.

    Returns:
        The function: fp32 inside for every input type, ``o`` in the type of ``q``.

    Raises:
        ValueError: The opset is too old.
    """
    import onnx.parser

    if opset < OPSET:
        raise ValueError(f"opset {opset} is too old for {SCHEMA.name}: export with {OPSET} or later")
    attributes = ", ".join(f'{k}: string = "{v}"' for k, v in SCHEMA.plugin_attributes.items())
    return onnx.parser.parse_function(
        _BODY.format(domain=SCHEMA.domain, opset=opset, name=SCHEMA.name, attributes=attributes)
    )


def op_schema() -> onnx.defs.OpSchema:
    """Declare the operator in ONNX's own terms.

    Returns:
        The schema, not registered: the exporter needs no registration, and a runtime
        resolves the node by the model's function or its own plugin.
    """
    import onnx.defs

    schema = onnx.defs.OpSchema

    def parameter(spec: TensorSpec) -> onnx.defs.OpSchema.FormalParameter:
        shared = spec.dtypes == SCHEMA.inputs[0].dtypes
        return schema.FormalParameter(spec.name, "T" if shared else f"tensor({_onnx(spec.dtypes[0])})")

    return schema(
        SCHEMA.name,
        SCHEMA.domain,
        SCHEMA.version,
        doc=schema_module.__doc__ or "",
        inputs=[parameter(spec) for spec in SCHEMA.inputs],
        outputs=[parameter(spec) for spec in SCHEMA.outputs],
        type_constraints=[("T", [f"tensor({_onnx(name)})" for name in SCHEMA.inputs[0].dtypes], "Floating point.")],
        attributes=[
            schema.Attribute(name, onnx.helper.make_attribute(name, value), "For TensorRT.")
            for name, value in SCHEMA.plugin_attributes.items()
        ],
    )


def _onnx(dtype: str) -> str:
    return {"float32": "float"}.get(dtype, dtype)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Map the torch operator to its ONNX node, for ``torch.onnx.export``.

    Returns:
        A value for ``custom_translation_table``.
    """
    import onnxscript
    import torch

    import toprovar.plugins.fae.torch_op  # noqa: F401  registers the operator

    opset = onnxscript.values.Opset(SCHEMA.domain, SCHEMA.version)
    emit = onnxscript.values.Op(opset, SCHEMA.name, op_schema())

    def flash_attention_entropy(q: Any, k: Any, v: Any) -> Any:
        return emit(q, k, v, **SCHEMA.plugin_attributes)

    return {getattr(getattr(torch.ops, SCHEMA.domain), SCHEMA.torch_name).default: flash_attention_entropy}


def add_function(model: ModelT) -> ModelT:
    """Give a model that uses the operator its function body.

    Adding it twice changes nothing. Weights are not touched, so a model whose weights lie
    in other files need not have them loaded.

    Args:
        model: A model with ``toprovar::FlashAttentionEntropy`` nodes; changed in place.

    Returns:
        The same model.

    Raises:
        ValueError: The model's ONNX opset is too old for the body.
    """
    import onnx

    if not isinstance(model, onnx.ModelProto):
        return _add_to_ir(model)
    opsets = {entry.domain or "": entry.version for entry in model.opset_import}
    if SCHEMA.domain not in opsets:
        model.opset_import.append(onnx.helper.make_opsetid(SCHEMA.domain, SCHEMA.version))
    known = {(function.domain, function.name) for function in model.functions}
    if (SCHEMA.domain, SCHEMA.name) not in known:
        model.functions.append(function_proto(opsets.get("", OPSET)))
    return model


def _add_to_ir(model: onnx_ir.Model) -> onnx_ir.Model:
    import onnx_ir

    model.opset_imports.setdefault(SCHEMA.domain, SCHEMA.version)
    function = onnx_ir.serde.deserialize_function(function_proto(model.opset_imports.get("", OPSET)))
    model.functions.setdefault(function.identifier(), function)
    return model
