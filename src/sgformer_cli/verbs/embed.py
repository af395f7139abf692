"""Arguments of ``sgformer embed``."""

import argparse

EXAMPLES = """examples:
  sgformer embed sgformer_t holiday/                        # features.parquet
  sgformer embed runs/finetune "photos/**/*.jpg" --out features.npz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("weights", help="a run folder (its best weights) or a weights file of a classifier")
    parser.add_argument(
        "images",
        nargs="+",
        help="files, folders (with all below them), patterns such as '*.jpg', or - for a list on standard input",
    )
    parser.add_argument(
        "--out",
        default="features.parquet",
        metavar="FILE",
        help="what to write: .parquet, .npz or .csv, with paths (default: features.parquet)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="images at once (default: 32)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps; default: a GPU where there is one")
