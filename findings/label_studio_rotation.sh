#!/bin/sh
# Guessed: Label Studio's converter gives one rotated rectangle the same box in COCO's, YOLO's and Pascal VOC's format.
# Happens: in COCO's format it is the upright box around the rotated rectangle; YOLO and VOC get the box before it was
#   rotated, and nothing says so. The rotation is about the corner, so that box may not even hold the object.
# Meets: who trains from one export and evaluates with another, or trains on YOLO or VOC exports of rotated objects.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q label-studio-converter==0.0.59 pillow==11.3.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import importlib.metadata
import json
from pathlib import Path
from xml.etree import ElementTree

from label_studio_converter import Converter
from PIL import Image

Image.new("RGB", (100, 100)).save("a.png")
value = {"x": 40, "y": 40, "width": 40, "height": 10, "rotation": 90, "rectanglelabels": ["pen"]}
result = {"type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value, "id": "1",
          "original_width": 100, "original_height": 100, "image_rotation": 0}
task = {"id": 1, "data": {"image": str(Path("a.png").resolve())},
        "annotations": [{"id": 1, "completed_by": 1, "result": [result],
                         "created_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-01T00:00:00Z"}]}
Path("tasks.json").write_text(json.dumps([task]))
converter = Converter(
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    '<Label value="pen"/></RectangleLabels></View>', ".")
converter.convert_to_coco("tasks.json", "coco", is_dir=False)
converter.convert_to_yolo("tasks.json", "yolo", is_dir=False)
converter.convert_to_voc("tasks.json", "voc", is_dir=False)
left, top, width, height = json.loads(Path("coco/result.json").read_text())["annotations"][0]["bbox"]
coco = [left, top, left + width, top + height]
x, y, w, h = (100 * float(v) for v in next(Path("yolo/labels").glob("*.txt")).read_text().split()[1:])
yolo = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
box = ElementTree.parse(next(Path("voc/Annotations").glob("*.xml"))).find(".//bndbox")
voc = [float(box.findtext(edge)) for edge in ("xmin", "ymin", "xmax", "ymax")]
print("label-studio-converter", importlib.metadata.version("label-studio-converter"))
for name, edges in (("COCO", coco), ("YOLO", yolo), ("VOC", voc)):
    print(f"{name:5}", [round(edge, 2) for edge in edges])
assert [round(edge) for edge in coco] == [30, 40, 40, 80]
assert [round(edge) for edge in yolo] == [round(edge) for edge in voc] == [40, 40, 80, 50]
PYTHON
# Seen:
#   label-studio-converter 0.0.59
#   COCO  [30.0, 40.0, 40.0, 80.0]
#   YOLO  [40.0, 40.0, 80.0, 50.0]
#   VOC   [40.0, 40.0, 80.0, 50.0]
