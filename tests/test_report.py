import numpy as np
from PIL import Image

from sgformer import report


def test_text_is_escaped():
    bad = "<script>alert(1)</script>"
    sections = [
        report.Section("a", report.table((bad,), [(bad,)])),
        report.Section("b", report.gallery([([Image.new("RGB", (8, 8))], bad)])),
        report.Section("c", report.text(bad), folded=True),
        report.Section("e", report.lines([bad, bad])),
        report.Section("d", report.matrix(np.eye(2), (bad, "x"))),
    ]
    page = report.page(bad, bad, sections)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 7


def test_small_images_are_not_enlarged():
    page = report.page("a", "b", [report.Section("c", report.figure([Image.new("RGB", (8, 8))], "d"))])
    assert "figure img { max-width: 100%;" in page


def test_curves_leave_out_what_was_not_measured():
    rows = [{"epoch": 1.0, "a": 0.5}, {"epoch": 2.0, "a": 0.4, "b": 0.3}]
    drawn = report.curves(rows, {"One": ["a", "b"], "Two": ["nothing"]})
    assert drawn.count("<svg") == 2
    assert ">a<" in drawn
    assert ">nothing<" not in drawn


def test_a_class_without_images_does_not_divide_by_zero():
    drawn = report.matrix([[3, 1], [0, 0]], ("a", "b"))
    assert "nan" not in drawn.lower()
    assert ">3<" in drawn


def test_a_class_name_is_no_formula():
    drawn = report.matrix(np.eye(2), (r"$\foo$", "5$"))
    assert r">$\foo$<" in drawn


def test_precision_over_recall():
    drawn = report.precision_recall({"Boxes": {"IoU 0.50": [1.0, 0.9, 0.2], "IoU 0.75": [0.8, 0.1, 0.0]}, "Masks": {}})
    assert drawn.count("<svg") == 2
    assert ">IoU 0.75<" in drawn
