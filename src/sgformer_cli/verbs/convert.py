"""Arguments of ``sgformer convert``."""

import argparse

EXAMPLES = """Takes a checkpoint as the authors released it, which is read without running any
code from it; or a run folder or weights file of this package, to pass on in
half the space.

examples:
  sgformer convert sgformer_s.pth sgformer_s.safetensors
  sgformer convert sgformer_s.pth sgformer_s.safetensors --no-ema
  sgformer convert runs/flowers flowers.safetensors --half
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("source", help="a released checkpoint (.pth), a run folder, or a weights file")
    parser.add_argument("out", help="the weights file to write (.safetensors)")
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="of a released checkpoint: take the averaged weights, which the paper's numbers belong to (default)",
    )
    parser.add_argument(
        "--names", metavar="FILE", help="what to call the classes to people: a line `class name` each"
    )
    parser.add_argument("--half", action="store_true", help="write half precision (float16)")
