"""Arguments of ``sgformer export``."""

import argparse

EXAMPLES = """The ending of OUT decides: .onnx for ONNX Runtime and others, .pt2 for
torch.export.load. A file takes any number of images, of any size from 128x128
to --max-size, or of one size with --size; that of a detector takes one image
at a time. It is checked against the model before it is kept.

examples:
  sgformer export runs/imagenette160 model.onnx
  sgformer export best.safetensors model.pt2 --max-size 640
  sgformer export best.safetensors model.onnx --size 160x208
  sgformer export best.safetensors model.onnx --int8
  sgformer export runs/nuclei maps.onnx --pyramid
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("weights", help="a run folder (its best weights) or a weights file")
    parser.add_argument("out", help="the file to write: .onnx or .pt2")
    parser.add_argument(
        "--size", metavar="HxW", help="images of this height and width only, such as 224 or 160x208"
    )
    parser.add_argument(
        "--max-size", type=int, metavar="PIXELS", help="the largest height and width that the file takes, rounded up "
        "to 512s (default: 1024, or what the model was evaluated at)",
    )  # fmt: skip
    parser.add_argument(
        "--half", action="store_true", help="compute in float16: half the file, meant for GPUs"
    )
    parser.add_argument(
        "--int8", action="store_true", help="the matrix products in 8 bits, .onnx only: a third of the file"
    )
    parser.add_argument(
        "--pyramid", action="store_true", help="of a detector only the feature pyramid, for heads of your own"
    )
