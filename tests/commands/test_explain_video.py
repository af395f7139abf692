"""`sgformer explain` with videos: what comes out frame by frame, and what is refused."""

import sys

import numpy as np
import pytest
from PIL import Image

from clips import write_clip
from sgformer.commands.explain import explain_image
from sgformer.tasks.classification.model import Classifier
from sgformer.tasks.images import Preprocessing
from sgformer_cli import run

pytest.importorskip("av", reason="videos need av")

from sgformer.explanations.video import VideoReader


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    preprocessing = Preprocessing(image_size=(64, 64), crop_fraction=0.8)
    Classifier("sgformer_test", classes=["cat", "dog"], preprocessing=preprocessing).save(path)
    return path


def frames_of(path):
    with VideoReader(path) as video:
        return [(np.asarray(image).astype(int), float(seconds)) for image, seconds in video]


def explain(weights, *arguments, out):
    return run(["explain", str(weights), *map(str, arguments), "--out", str(out), "--device=cpu"])


def test_a_video_becomes_a_video_of_what_is_significant(weights, tmp_path, capsys):
    """Of as many frames at the same times; sound is left out."""
    clip = tmp_path / "clip.mp4"
    write_clip(clip, times=[0, 0.1, 0.2, 0.9], sound=True)
    assert explain(weights, clip, out=tmp_path / "out") == 0
    assert "clip.mp4 -> " in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]
    given, drawn = frames_of(clip), frames_of(tmp_path / "out" / "clip.mp4")
    assert [seconds for _, seconds in drawn] == pytest.approx([seconds for _, seconds in given], abs=1e-3)
    model = Classifier.from_weights(weights)
    for (frame, _), (image, _) in zip(given, drawn, strict=True):
        expected = explain_image(model, frame.astype(np.uint8)).combined()
        assert image.shape == frame.shape
        assert np.abs(image - expected).mean() < 6  # what the compression changes
        assert np.abs(image - frame).mean() > 12
    import av

    with av.open(str(tmp_path / "out" / "clip.mp4")) as container:
        assert not container.streams.audio


def test_frames_in_a_folder_become_one(weights, tmp_path, capsys):
    folder = tmp_path / "walk"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (50, 70, 3), np.uint8)).save(folder / f"{i}.png")
    assert explain(weights, folder, "--fps", "12.5", out=tmp_path / "out") == 0
    frames = frames_of(tmp_path / "out" / "walk.mp4")
    assert [seconds for _, seconds in frames] == pytest.approx([i / 12.5 for i in range(5)], abs=1e-3)
    (folder / "2.png").write_bytes(b"nothing")
    assert explain(weights, folder, "--fps=12.5", out=tmp_path / "out") == 1
    assert "skipped" in capsys.readouterr().err
    frames = frames_of(tmp_path / "out" / "walk.mp4")
    assert [seconds for _, seconds in frames] == pytest.approx([0, 0.08, 0.24, 0.32], abs=1e-3)


def test_of_a_damaged_video_there_is_what_could_be_read(weights, tmp_path, capsys):
    clip = tmp_path / "clip.mkv"
    write_clip(clip, frames=48)
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle:] = np.random.default_rng(0).bytes(len(content) - middle)
    clip.write_bytes(content)
    code = explain(weights, clip, out=tmp_path / "out")
    said = capsys.readouterr()
    frames = frames_of(tmp_path / "out" / "clip.mp4")
    assert 10 < len(frames) < 48
    if code:  # FFmpeg takes damage for an end where it can
        assert f"{len(frames)} frames that could be read" in said.out
        assert "cannot be read as a video after" in said.err


def test_images_and_videos_together(weights, tmp_path):
    write_clip(tmp_path / "clip.mp4", frames=2)
    Image.new("RGB", (60, 40)).save(tmp_path / "one.png")
    assert explain(weights, tmp_path / "clip.mp4", tmp_path / "one.png", out=tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip.mp4", "one", "index.html"}


@pytest.mark.exhaustive
def test_memory_does_not_grow_with_the_length(weights, tmp_path, monkeypatch):
    """Frames are let go: never more than a few of them at a time."""
    import gc
    import weakref

    from sgformer.commands import explain as command

    write_clip(tmp_path / "clip.mp4", frames=10)
    alive, most = weakref.WeakSet(), []
    original = command.explain_image

    def counted(model, image, **options):
        explanation = original(model, image, **options)
        alive.add(explanation)
        gc.collect()
        most.append(len(alive))
        return explanation

    monkeypatch.setattr(command, "explain_image", counted)
    assert explain(weights, tmp_path / "clip.mp4", out=tmp_path / "out") == 0
    assert len(most) == 10
    assert max(most) <= 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["text.mp4"], 1, "text.mp4 cannot be read as a video"),
        (["sound.m4v"], 1, "has no video stream"),
        (["nowhere.mp4"], 2, "there is no such video: nowhere.mp4"),
        (["clip.mp4", "--fps", "25"], 2, "--fps is for frames that are images"),
        (["one.png", "--fps", "0"], 2, "--fps 0 is outside"),
        (["clip.mp4", "--size", "20"], 2, "size 20 is too small"),
    ],
)
def test_what_is_refused(weights, tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    write_clip(tmp_path / "clip.mp4", frames=2)
    write_clip(tmp_path / "sound.mp4", frames=0, sound=True)
    (tmp_path / "sound.mp4").rename("sound.m4v")
    Image.new("RGB", (60, 40)).save(tmp_path / "one.png")
    assert explain(weights, *arguments, out=tmp_path / "out") == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_video_does_not_replace_itself(weights, tmp_path, capsys):
    write_clip(tmp_path / "clip.mp4", frames=2)
    before = (tmp_path / "clip.mp4").read_bytes()
    assert explain(weights, tmp_path / "clip.mp4", out=tmp_path) == 2
    assert "name another folder" in capsys.readouterr().err
    assert (tmp_path / "clip.mp4").read_bytes() == before


def test_without_the_extra_it_is_named(weights, tmp_path, monkeypatch, capsys):
    write_clip(tmp_path / "clip.mp4", frames=2)
    monkeypatch.setitem(sys.modules, "av", None)
    assert explain(weights, tmp_path / "clip.mp4", out=tmp_path / "out") == 2
    assert "this command needs av: pip install 'sgformer[video]'" in capsys.readouterr().err
