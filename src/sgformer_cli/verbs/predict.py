"""Arguments of ``sgformer predict``."""

import argparse

EXAMPLES = """examples:
  sgformer predict runs/imagenette160 dog.jpg
  sgformer predict best.safetensors holiday/ "more/**/*.png" --json names.json
  sgformer predict detector.safetensors street/ --draw drawn/ --coco found.json
  sgformer predict segmenter.safetensors panorama.jpg --maps maps/ \\
      --draw drawn/ --json shares.json --window 512 --flip
  find photos -name "*.jpg" | \\
      sgformer predict best.safetensors - --csv names.csv
  torchrun --nproc-per-node 8 -m sgformer \\
      predict best.safetensors corpus/ --csv names.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("weights", help="a run folder (its best weights) or a weights file")
    parser.add_argument(
        "images",
        nargs="+",
        help="files, folders (with all below them), patterns such as '*.jpg', or - for a list on standard input",
    )
    parser.add_argument("--json", metavar="FILE", help="also write all predictions to this file")
    parser.add_argument(
        "--csv",
        metavar="FILE",
        help="also write a line for each image to this file; of a classifier: label, score, label2, score2, ...",
    )
    parser.add_argument("--draw", metavar="FOLDER", help="also draw what was found into copies of the images")
    parser.add_argument(
        "--top-k",
        type=int,
        default=3,
        metavar="K",
        help="classification: how many classes to show (default: 3)",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="detection: the least score of what is shown (default: 0.5)",
    )
    parser.add_argument(
        "--coco", metavar="FILE", help="detection: also write all objects to this file, in COCO's format"
    )
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="detection: with --coco, write the results that pycocotools takes, with the ids of this file",
    )
    parser.add_argument(
        "--maps", metavar="FOLDER", help="segmentation: also write class maps, PNG files with a palette"
    )
    parser.add_argument(
        "--window",
        type=int,
        metavar="PIXELS",
        help="segmentation: side of the windows in which images are looked at (default: as trained)",
    )
    parser.add_argument(
        "--scales",
        type=factors,
        metavar="FACTORS",
        help="segmentation: sizes to average over, such as 0.75,1,1.25 (default: as trained)",
    )
    parser.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="segmentation: look at images mirrored, too, or do not (default: as trained)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="images at once (default: 32)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps; default: a GPU where there is one")


def factors(text: str) -> list[float]:
    """Numbers with commas between them."""
    return [float(part) for part in text.split(",")]
