"""Tests of reports: one for all tasks."""

import json
from dataclasses import dataclass

import pytest
import torch

from sgformer.tasks.errors import DataError
from sgformer.tasks.evaluation import BaseReport, readable
from sgformer.tasks.loading import Batch, Unreadable


@dataclass(frozen=True)
class Row:
    name: str
    share: float | None


@dataclass(frozen=True)
class Report(BaseReport):
    share: float
    classes: tuple[Row, ...]

    def to_table(self):
        return (), []


def test_a_report_as_json_has_all_but_its_pictures():
    report = Report(
        1 / 3, (Row("cat", 0.1234567), Row("dog", None)), num_images=3, num_unreadable=1, notes=("odd",), curves={}
    )
    assert json.loads(json.dumps(report.to_dict())) == {
        "num_images": 3,
        "num_unreadable": 1,
        "notes": ["odd"],
        "confusion": None,
        "share": 0.333333,
        "classes": [{"class": "cat", "share": 0.123457}, {"class": "dog", "share": None}],
    }
    assert report.to_lines() == ["unreadable images: 1", "odd"]


def test_batches_without_a_readable_image_are_left_out_and_named():
    images, why = torch.zeros(1, 3, 2, 2), Unreadable("a.png", "is empty")
    batches, left_out = [Batch([], [], (why,)), Batch(images, [0], (why,))], []
    assert [batch.targets for batch in readable(batches, left_out)] == [[0]]
    assert [str(each) for each in left_out] == ["left out: a.png: is empty"] * 2
    with pytest.raises(DataError, match=r"none of 1 images can be read, such as a\.png: is empty"):
        list(readable(batches[:1], []))
