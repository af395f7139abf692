"""Arguments of ``sgformer evaluate``."""

import argparse

TAKES_OVERRIDES = True
EXAMPLES = """The data of the training recipe is used, unless changed: --data.KEY VALUE.

examples:
  sgformer evaluate runs/imagenette160
  sgformer evaluate runs/imagenette160 --data.eval_image_size 160 \\
      --json report.json
  sgformer evaluate best.safetensors --data.root photos
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes, overrides aside."""
    parser.add_argument("weights", help="a run folder (its best weights) or a weights file")
    parser.add_argument("--json", metavar="FILE", help="also write all numbers to this file")
    parser.add_argument(
        "--coco",
        metavar="FILE",
        help="detection: also write what was found, the results that pycocotools takes for the same annotations",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps; default: a GPU where there is one")
