"""Dynamic int8 quantization of an exported file's matrix products."""

import json
import os
from pathlib import Path

from ..engine.quiet import errors_only
from .formats.onnx_file import read_about


def quantise(path: Path) -> None:
    """Rounds the weights of an ONNX file's matrix products to 8 bits.

    Weights are rounded once, each output channel on a scale of its own; what they are multiplied with is rounded when
    the file runs, on a scale that is found then (*dynamic* quantisation), so no images are needed here. Products of
    two computed things, as in attention, stay in float32; so do convolutions.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = path.with_name(f"int8.{path.name}")
    with errors_only(""):  # it advises on the root logger
        quantize_dynamic(
            path,
            out,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    model = onnx.load(str(out))
    onnx.helper.set_model_props(model, {"sgformer": json.dumps({**read_about(path), "precision": "int8"})})
    onnx.save(model, str(out))
    os.replace(out, path)
