"""Videos are read upright and in time, and written whole or not at all."""

from fractions import Fraction

import numpy as np
import pytest

from clips import write_clip
from sgformer.explanations.video import ENCODERS, VideoError, VideoReader, VideoWriter

av = pytest.importorskip("av", reason="videos need av")


def test_frames_come_in_time_from_nought(tmp_path):
    times = [0.5, 0.6, 0.7, 1.5, 1.6]  # a recording that stood still, and did not begin at 0
    write_clip(tmp_path / "clip.mp4", times=times)
    with VideoReader(tmp_path / "clip.mp4") as video:
        frames = list(video)
    assert [float(seconds) for _, seconds in frames] == pytest.approx([0, 0.1, 0.2, 1, 1.1], abs=2e-3)
    assert {image.size for image, _ in frames} == {(96, 64)}
    assert {image.mode for image, _ in frames} == {"RGB"}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm"])
def test_the_usual_containers_are_read(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    write_clip(path, codec="libvpx-vp9" if suffix == ".webm" else "mpeg4")
    with VideoReader(path) as video:
        assert video.rate == 12
        assert video.length == pytest.approx(12, abs=1)
        centres = [np.argwhere(np.asarray(image)[..., 0] > 150).mean(0) for image, _ in video]
    assert len(centres) == 12
    np.testing.assert_allclose(centres, [(31.5, 10.5 + 6 * i) for i in range(12)], atol=1.5)


def test_a_phone_held_upright(tmp_path):
    """The file says by how much an image is turned: here by 90 degrees with the clock."""
    path = tmp_path / "clip.mp4"
    write_clip(path)
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd")
    place = header + 4 + 4 + 20 + 8 + 8  # version, times and number, nothing, layer and volume
    turned = [0, 1, 0, -1, 0, 0, 0, 0, 1 << 14]
    content[place : place + 36] = b"".join((value << 16).to_bytes(4, "big", signed=True) for value in turned)
    path.write_bytes(content)
    with VideoReader(path) as video:
        image, _ = next(iter(video))
    assert image.size == (64, 96)
    # What was at the left is above.
    np.testing.assert_allclose(np.argwhere(np.asarray(image)[..., 0] > 150).mean(0), (10.5, 64 - 1 - 31.5), atol=1.5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_is_written_can_be_read(tmp_path, monkeypatch, encoder):
    if encoder not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {encoder}")
    monkeypatch.setattr("sgformer.explanations.video.ENCODERS", (encoder,))
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    with VideoWriter(tmp_path / "new" / "out.mp4", Fraction(30_000, 1001)) as out:
        for i, colour in enumerate(colours):
            out.add(np.full((33, 47, 3), colour, np.uint8), Fraction(1001 * i * (i + 1), 30_000))
        assert not out.path.exists()
    assert [path.name for path in out.path.parent.iterdir()] == ["out.mp4"]
    with VideoReader(out.path) as video:
        frames = list(video)
    assert [float(seconds) for _, seconds in frames] == pytest.approx([0, 2 * 0.0333667, 6 * 0.0333667], abs=1e-4)
    for (image, _), colour in zip(frames, colours, strict=True):
        assert image.size == (48, 34)  # even
        np.testing.assert_allclose(np.asarray(image).mean((0, 1)), colour, atol=6)


def write_half(path):
    with VideoWriter(path) as out:
        out.add(np.zeros((32, 32, 3), np.uint8), Fraction(0))
        raise KeyboardInterrupt


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_video_is_named(tmp_path):
    text, sound = tmp_path / "text.mp4", tmp_path / "sound.mp4"
    text.write_text("no video at all")
    with pytest.raises(VideoError, match=r"text.mp4 cannot be read as a video .*ffmpeg -i"):
        VideoReader(text)
    write_clip(sound, frames=0, sound=True)
    with pytest.raises(VideoError, match=r"sound.mp4 has no video stream, only sound"):
        VideoReader(sound)
    with pytest.raises(FileNotFoundError, match="no such video"):
        VideoReader(tmp_path / "nowhere.mp4")
