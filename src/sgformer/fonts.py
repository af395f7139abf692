"""Fonts for class names in drawings: one that has the letters, or the class's number in place of its name."""

import importlib.util
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# As systems call them: Latin, Greek and Cyrillic first, then Chinese, Japanese and Korean.
_FILES = """
DejaVuSans.ttf, NotoSans-Regular.ttf, LiberationSans-Regular.ttf, Arial Unicode.ttf, arial.ttf
NotoSansCJK-Regular.ttc, NotoSansCJKsc-Regular.otf, NotoSansCJKjp-Regular.otf, SourceHanSansSC-Regular.otf
wqy-microhei.ttc, wqy-zenhei.ttc, DroidSansFallbackFull.ttf, NanumGothic.ttf, ipag.ttf, unifont.otf
msyh.ttc, YuGothM.ttc, malgun.ttf, PingFang.ttc, Hiragino Sans GB.ttc, AppleSDGothicNeo.ttc
"""


def font_for(texts: Iterable[str], size: float) -> Font:
    """A font with the letters of all these texts; where there is none, the one with most of them.

    Plain English is written in Pillow's own font. Others are the system's, and DejaVu as matplotlib ships it.
    """
    letters = {letter for text in texts for letter in unicodedata.normalize("NFC", text)}
    if all(letter.isascii() for letter in letters):
        return ImageFont.load_default(size)
    missing = {name: sum(not _has(name, letter) for letter in letters) for name in _fonts()}
    if not missing:
        return ImageFont.load_default(size)
    return ImageFont.truetype(min(missing, key=lambda name: missing[name]), size)


def written(name: str, number: int) -> str:
    """A class name as it can be drawn here: itself, or ``class NUMBER`` where no font has its letters."""
    name = unicodedata.normalize("NFC", name)
    fits = name.isascii() or any(all(_has(font, letter) for letter in name) for font in _fonts())
    return name if fits else f"class {number}"


@cache
def _fonts() -> tuple[str, ...]:
    """Files of fonts that are here, by what `ImageFont.truetype` finds them by."""
    found = [name for name in re.split(r", |\n", _FILES.strip()) if _exists(name)]
    # Found, not imported: it takes a second.
    spec = importlib.util.find_spec("matplotlib")
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        found += [str(path)] if path.is_file() else []
    return tuple(found)


def _exists(name: str) -> bool:
    try:
        ImageFont.truetype(name, 12)
    except OSError:
        return False
    return True


@cache
def _has(font: str, letter: str) -> bool:
    """Whether a font draws a letter as anything but what it draws for letters that it lacks."""
    if letter.isspace():
        return True
    return _drawn(font, letter) != _drawn(font, "\uffff")  # which is no letter


def _drawn(font: str, letter: str) -> bytes:
    image = Image.new("L", (32, 32))
    ImageDraw.Draw(image).text((4, 4), letter, 255, ImageFont.truetype(font, 16))
    return image.tobytes()
