import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from sgformer import fonts
from sgformer.explanations.render import Cell, contact_sheet
from sgformer.tasks.classification.model import Prediction
from sgformer.tasks.detection.draw import draw
from sgformer.tasks.segmentation.prediction import SemanticMap

GRAY = np.full((64, 96, 3), 120, np.uint8)
COLOURS = ((200, 0, 0), (0, 0, 200))


def drawings(name):
    """Every drawing with a class name in it."""
    prediction = Prediction(((name, 0.9), ("b", 0.1)), (3, 1))
    yield prediction.draw(GRAY)
    yield SemanticMap(np.zeros((64, 96), np.uint8), (name, "b"), COLOURS).draw(GRAY)
    boxes = np.array([[4, 4, 60, 60]], np.float32)
    yield draw(Image.fromarray(GRAY), boxes, [name], kinds=[0])
    yield contact_sheet([[Cell(GRAY, name)]])


def drawn(font, letter):
    image = Image.new("L", (32, 32))
    ImageDraw.Draw(image).text((4, 4), letter, 255, font)
    return image.tobytes()


@pytest.mark.parametrize("name", ["café", "cafe\u0301", "Straße", "żółć", "ğış", "άλογο", "кошка", "їжак"])
def test_latin_greek_and_cyrillic_are_no_squares(name):
    if not fonts._fonts():
        pytest.skip("neither the system nor matplotlib has a font")
    assert fonts.written(name, 3).encode() == fonts.written(name, 3).encode()
    font = fonts.font_for([name], 16)
    for letter in fonts.written(name, 3):
        assert drawn(font, letter) != drawn(font, "\uffff")
    # What is drawn differs from name to name, and from what squares would be.
    other = name[:-1] + ("я" if name[-1] != "я" else "ж")
    for one, two in zip(drawings(name), drawings(other), strict=True):
        assert one.size != two.size or one.tobytes() != two.tobytes()


def test_a_name_that_no_font_has_is_a_number(monkeypatch):
    monkeypatch.setattr(fonts, "_has", lambda font, letter: letter.isascii())
    assert fonts.written("猫", 3) == "class 3"
    assert fonts.written("cat", 3) == "cat"
    monkeypatch.setattr(fonts, "_fonts", tuple)
    assert fonts.written("кошка", 4) == "class 4"
    for drawing in drawings("кошка"):
        assert drawing.mode == "RGB"


def test_plain_english_is_drawn_as_before():
    assert drawn(fonts.font_for(["a cat"], 16), "a") == drawn(ImageFont.load_default(16), "a")
