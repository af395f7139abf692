"""Arguments of ``sgformer explain``."""

import argparse

EXAMPLES = """The whole image is explained: resized as the model was evaluated, by its
shorter side, and not cropped.

examples:
  sgformer explain runs/imagenette160 dog.jpg
  sgformer explain best.safetensors holiday/ --out holiday_explained --size 320
  sgformer explain best.safetensors dog.jpg --token-budget 32
  sgformer explain sgformer_t street.mp4        # a video of what is significant
  sgformer explain sgformer_t frames/ --fps 25  # the same of its frames
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("weights", help="a run folder (its best weights) or a weights file")
    parser.add_argument(
        "images",
        nargs="+",
        help="files, folders (with all below them) or patterns such as '*.jpg'; also videos such as clip.mp4",
    )
    parser.add_argument(
        "--out", default="explained", metavar="FOLDER", help="where the images go (default: explained)"
    )
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="shorter side that the model sees; default: its own"
    )
    parser.add_argument(
        "--token-budget", type=int, metavar="K", help="the most keys; default: what the weights say"
    )
    parser.add_argument(
        "--fps", type=float, metavar="N", help="the images are frames, N a second: write one video of them"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps; default: a GPU where there is one")
