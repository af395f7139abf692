"""Files as LabelMe writes them."""

import base64
import io
import json

import numpy as np
from PIL import Image

SIZE = (40, 60)  # height, width
CAR = {"label": "car", "points": [[10.5, 8.0], [30.0, 9.5], [12.0, 28.25]], "shape_type": "polygon"}


def png(mask):
    """A mask as text."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(mask, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write(file, *shapes, size=SIZE, **entries):
    """A file, and its image beside it where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"group_id": None, "description": "", "flags": {}, "mask": None, **shape} for shape in shapes]
    content = {"version": "7.9.1", "flags": {}, "shapes": rows, "imagePath": f"{file.stem}.png", "imageData": None}
    file.write_text(json.dumps({**content, "imageHeight": size[0], "imageWidth": size[1], **entries}))
    if not file.with_suffix(".png").exists():
        Image.new("RGB", SIZE[::-1], (len(str(file)) % 99, 9, 9)).save(file.with_suffix(".png"))
