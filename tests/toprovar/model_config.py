"""The part of Triton's published `ModelConfig` that a Python model may use, for a strict reading of config.pbtxt.

Names, numbers and kinds of fields are those of `protobuf/model_config.proto` in triton-inference-server/common.
Whatever is not listed here is refused, as Triton refuses fields that it does not know.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

__all__ = ["parse"]

_ENUMS = {
    "DataType": (
        "TYPE_INVALID TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8 TYPE_INT16 TYPE_INT32 "
        "TYPE_INT64 TYPE_FP16 TYPE_FP32 TYPE_FP64 TYPE_STRING TYPE_BF16"
    ),
    "Kind": "KIND_AUTO KIND_GPU KIND_CPU KIND_MODEL",
}
_MESSAGES = {
    "ModelInput": "1 string name, 2 DataType data_type, 4 int64* dims, 7 bool allow_ragged_batch, 8 bool optional",
    "ModelOutput": "1 string name, 2 DataType data_type, 3 int64* dims, 4 string label_filename",
    "ModelInstanceGroup": "1 string name, 4 Kind kind, 2 int32 count, 3 int32* gpus, 7 bool passive",
    "ModelParameter": "1 string string_value",
    # On the wire a map is a list of these.
    "ParametersEntry": "1 string key, 2 ModelParameter value",
    "ModelTransactionPolicy": "1 bool decoupled",
    "ModelConfig": (
        "1 string name, 2 string platform, 17 string backend, 25 string runtime, 4 int32 max_batch_size, "
        "5 ModelInput* input, 6 ModelOutput* output, 7 ModelInstanceGroup* instance_group, "
        "8 string default_model_filename, 14 ParametersEntry* parameters, "
        "19 ModelTransactionPolicy model_transaction_policy"
    ),
}


def parse(text: str) -> Any:
    """Reads a config.pbtxt.

    Raises:
        google.protobuf.text_format.ParseError: a field or value that the schema does not have.
    """
    return text_format.Parse(text, _config()())


def _config() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, values in _ENUMS.items():
        made = file.enum_type.add(name=name)
        for number, value in enumerate(values.split()):
            made.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields.split(", "):
            number, kind, own = field.split()
            _add(message, own, int(number), kind.rstrip("*"), kind.endswith("*"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def _add(message: Any, name: str, number: int, kind: str, repeated: bool) -> None:
    field = descriptor_pb2.FieldDescriptorProto
    made = message.field.add(name=name, number=number)
    made.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    scalars = {
        "string": field.TYPE_STRING,
        "int64": field.TYPE_INT64,
        "int32": field.TYPE_INT32,
        "bool": field.TYPE_BOOL,
    }
    made.type = scalars.get(kind, field.TYPE_ENUM if kind in _ENUMS else field.TYPE_MESSAGE)
    if kind not in scalars:
        made.type_name = f".inference.{kind}"
