import json
import shutil

import pytest

from class_folders import make_class_folders
from mask_folders import CLASSES, make_mask_folders
from sgformer.tasks.classification import sources
from sgformer.tasks.detection import names
from sgformer.tasks.errors import DataError
from sgformer.tasks.segmentation.mapping import read_classes, read_mapping
from sgformer.tasks.text import doubtful_names, enumerate_names, read_lines, read_names, read_plain_names, read_text

TEXT = "red\nbläu 蓝\n"


@pytest.mark.parametrize("content", [TEXT.encode(), TEXT.encode("utf-8-sig"), TEXT.replace("\n", "\r\n").encode()])
def test_a_byte_order_mark_and_line_ends_are_no_content(tmp_path, content):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert read_text(path) == TEXT
    assert read_lines(path) == ["red", "bläu 蓝"]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((TEXT, encoding) for encoding in ("utf-16", "utf-16-le", "utf-16-be", "gbk")),
        ("bläu", "latin-1"),
        ("красный", "cp1251"),
    ],
)
def test_other_encodings_are_named(tmp_path, text, encoding):
    path = tmp_path / "names.txt"
    path.write_bytes(text.encode(encoding, errors="ignore"))
    with pytest.raises(DataError, match=r"names\.txt .*UTF-8"):
        read_text(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"names\.txt cannot be read"):
        read_text(tmp_path / "names.txt")


def test_class_names_of_a_list_have_no_mark(tmp_path):
    make_mask_folders(tmp_path)
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_classes(path).classes == CLASSES
    mapping = tmp_path / "map.yaml"
    mapping.write_text("classes: {air: 0, ground: [1, 2]}", "utf-8-sig")
    assert read_mapping(mapping).classes == ("air", "ground")
    mapping.write_text(json.dumps({"classes": {"air": 0}}), "utf-8-sig")
    assert read_mapping(mapping).classes == ("air",)


def test_a_table_and_names_with_marks(tmp_path):
    root = make_class_folders(tmp_path, num_train=2, num_val=1)
    table = tmp_path / "train.csv"
    table.write_text("path,label\ntrain/red/0.png,red\ntrain/blue/0.png,blue\n", "utf-8-sig")
    assert sources.listing(str(table), "train", root, None).classes == ("blue", "red")
    (root / "classes.txt").write_text("red Rot\nblue Blau\n", "utf-8-sig")
    shutil.rmtree(root / "train" / "green")
    assert sources.folders(root, "train").names == {"red": "Rot", "blue": "Blau"}
    (root / "classes.txt").write_bytes(b"red R\xf6t\n")
    with pytest.raises(DataError, match=r"classes\.txt is not UTF-8"):
        sources.folders(root, "train")


STRUCTURED = [
    ("a.txt", json.dumps(["red", "on", "010"], indent=2)),
    ("a.names", "['red', 'on', '010']\n"),
    ("a.json", json.dumps({"2": "010", "0": "red", "1": "on"})),
    ("a.txt", json.dumps({"red": 0, "on": 1, "010": 2}, indent=2)),
    ("a.txt", json.dumps({"id2label": {"0": "red", "1": "on", "2": "010"}}, indent=2)),
    (
        "a.json",
        json.dumps({"categories": [{"id": 2, "name": "010"}, {"id": 0, "name": "red"}, {"id": 1, "name": "on"}]}),
    ),
    ("a.txt", "nc: 3\nnames:\n  0: red\n  1: on\n  2: '010'\n"),
    ("a.txt", "- red\n- on\n- '010'\n"),
]


@pytest.mark.parametrize(("file", "text"), STRUCTURED)
def test_class_names_in_json_and_yaml(tmp_path, file, text):
    path = tmp_path / file
    path.write_text(text)
    assert read_names(path) == ["red", "on", "010"]
    assert read_classes(path).classes == ("red", "on", "010")
    assert [*names.read(path).names.values()] == ["red", "on", "010"]


@pytest.mark.parametrize(
    "text",
    [
        "CLASSES = [\n  'red',\n  'on',\n]\n",
        "item {\n  id: 1\n  name: 'red'\n}\n",
        json.dumps({"1": "red", "2": "on"}, indent=1),
        json.dumps({"images": [], "categories": [{"id": 1, "name": "red"}]}, indent=1),
        json.dumps([["red", "on"]], indent=1),
        json.dumps({"red": 0, "on": 0}, indent=1),
        "[]",
    ],
)
def test_structure_that_is_no_list_of_classes_is_named(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=r"classes\.txt .*write a list of names"):
        read_names(path)


@pytest.mark.parametrize(
    "text",
    [
        "0. red\n1. on\n2. 010\n",
        "1 - on\n0 - red\n2 - 010\n",
        "0) red\n1) on\n2) 010\n",
        "red 220 30 30\non 1 2 3\n010 0 0 0\n",
    ],
)
def test_numbers_and_colours_beside_names_are_no_names(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    assert read_plain_names(path) == ["red", "on", "010"]
    if "0 -" not in text:
        assert read_classes(path).classes == ("red", "on", "010")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("1 red\n2 on\n", None),
        ("1. red\n2. on\n", None),
        ("0: red\n1: on\n3: 010\n", None),
        ("2 doors\n4 doors\n", ["2 doors", "4 doors"]),
        ("3-wheeler\n4-wheeler\n", ["3-wheeler", "4-wheeler"]),
        ("1 door\nother\n", ["1 door", "other"]),
    ],
)
def test_numbers_that_are_no_ids(tmp_path, text, known):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    if known:
        assert read_plain_names(path) == known
    else:
        with pytest.raises(DataError, match=r"classes\.txt: the names have numbers, [01]"):
            read_plain_names(path)


def test_names_are_told_in_order():
    assert enumerate_names(["b", "a"], [3, 0]) == "2 classes (b 3, a 0)"
    assert enumerate_names([str(i) for i in range(11)]) == "11 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)"


def test_names_that_differ_in_marks_and_names_for_nothing():
    names = ["traffic light", "traffic_light", "Traffic-Light", "car", "Dont_Care", "__void__", "avoid"]
    assert doubtful_names(names) == [
        "3 names of classes differ in blanks, _ or - alone",
        "Dont_Care is learned as a class, though it may be what belongs to none",
        "__void__ is learned as a class, though it may be what belongs to none",
    ]
    assert doubtful_names(["-1", "1", "A", "A-"]) == []
    assert doubtful_names(["a", "A", "a_b", "a b"])[:2] == [
        "2 names of classes differ in capitals or blanks alone",
        "2 names of classes differ in blanks, _ or - alone",
    ]
