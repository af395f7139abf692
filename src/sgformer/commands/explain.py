"""Draw what a model finds significant in images or a video, and where its keys go.

The whole image is explained: resized as the model was evaluated, by its
shorter side, and not cropped.

Examples:
  sgformer explain runs/imagenette160 dog.jpg
  sgformer explain best.safetensors holiday/ --out holiday_explained --size 320
  sgformer explain best.safetensors dog.jpg --token-budget 32
  sgformer explain sgformer_t street.mp4        # a video of what is significant
  sgformer explain sgformer_t frames/ --fps 25  # the same of its frames
"""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..explanations import Explanation, Pair
    from ..tasks.images import ImageLike
    from ..tasks.model import Kept

# What is taken for a video, by the ends of names.
SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".ts", ".m2ts", ".3gp"))
MAX_FPS = 240


def explain(
    weights: str | Path,
    images: list[str],
    *,
    out: str | Path = "explained",
    size: int | None = None,
    token_budget: int | None = None,
    fps: float | None = None,
    device: str = "auto",
) -> int:
    """Draw what a model finds significant in images or videos, and how it spends its keys on it.

    From Python, `explain_images` gives the arrays.

    Args:
        weights: A run folder (its best weights) or a weights file, of any task.
        images: Files, folders and patterns; of videos, files.
        out: A folder for ``index.html`` and for a folder of PNG files for each image; for an MP4 file for each video.
        size: Shorter side that the model sees, in pixels, at least 32.
        token_budget: The most keys of an attention, at least 3.
        fps: The images are the frames of one video, so many a second, in their order.
        device: Where to compute; ``auto`` takes a GPU where there is one.

    Returns:
        0, or 1 if an image, or a video from somewhere on, could not be read.

    Raises:
        ValueError: The weights cannot be used, the model has no significance, or there are no images.
    """
    from .. import tasks
    from ..engine.files import numbered
    from . import console
    from .inputs import find, readable

    videos = [Path(name) for name in images if Path(name).suffix.lower() in SUFFIXES]
    images = [name for name in images if Path(name) not in videos]
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise ValueError(f"--fps {fps:g} is outside 0 to {MAX_FPS}; 25 is usual")
    if fps is not None and videos:
        raise ValueError(f"--fps is for frames that are images; {videos[0]} says itself how fast it is")
    paths = find(images, readable(weights)) if images else []
    model = tasks.load(weights, device=console.device(device))
    if token_budget is not None:
        if model.guided is None:
            raise ValueError(f"{model.name} has no token budget; leave --token-budget out")
        model.guided.set_token_budget(token_budget)
    folder = Path(out)
    if fps is not None:
        name = paths[0].resolve().parent.name or "frames"  # after their folder
        return _explain_frames(model, paths, folder / f"{name}.mp4", fps=fps, size=size)
    failed, taken = 0, {}
    for path in videos:
        taken[name := next(each for each in numbered(path.stem) if each not in taken)] = path
        failed += _explain_video(model, path, folder / f"{name}.mp4", size=size)
    num_explained = _explain_images(model, paths, folder, size=size)
    return int(failed > 0 or num_explained < len(paths))


def _explain_images(model: Kept, paths: list[Path], folder: Path, *, size: int | None) -> int:
    """Write a folder for each image, and a page about all; returns how many could be read."""
    from PIL import Image

    from ..engine.files import numbered, write_atomically
    from ..explanations import write_page
    from ..tasks.images import ImageError
    from . import console

    explanations: dict[str, Explanation] = {}
    notes: dict[str, str] = {}
    for path in console.track(paths, "explaining", device=model.mean.device):
        try:
            image = model.preprocessing.read(path)
            explanation = explain_image(model, image, size=size)
        except (ImageError, OSError) as error:
            print(f"sgformer: skipped: {error}", file=sys.stderr)
            continue
        name = next(each for each in numbered(path.stem) if each not in explanations)
        explanations[name] = explanation
        prediction = model.predict(image)
        notes[name] = prediction.summary()
        save(explanation, folder / name)
        if (objects := prediction.outline(Image.fromarray(explanation.combined()))) is not None:
            objects.save(folder / name / "objects.png")
        print(f"{path} -> {folder / name}", flush=True)
    if explanations:
        page = write_page(explanations, title=f"What {model.name} finds significant", notes=notes)
        write_atomically(folder / "index.html", page.encode())
        print(f"All in one page: {folder / 'index.html'}")
    return len(explanations)


def _explain_video(model: Kept, path: Path, out: Path, *, size: int | None) -> bool:
    """Writes a video of the significance in another; whether it could not be read to its end."""
    from ..explanations.video import VideoError, VideoReader, VideoWriter
    from . import console

    if out.exists() and out.samefile(path):
        raise ValueError(f"{path} would be replaced; name another folder by --out")
    drawn = VideoWriter(out)
    try:
        with VideoReader(path) as video, drawn:
            drawn.rate = video.rate
            for image, seconds in console.track(video, path.name, total=video.length, device=model.mean.device):
                drawn.add(explain_image(model, image, size=size).combined(), seconds)
    except VideoError as error:
        print(f"sgformer: {error}", file=sys.stderr)
        if drawn.num_frames:
            print(f"{path} -> {out}, {drawn.num_frames} frames that could be read", flush=True)
        return True
    print(f"{path} -> {out}", flush=True)
    return False


def _explain_frames(model: Kept, paths: list[Path], out: Path, *, fps: float, size: int | None) -> int:
    """Explain images as frames in order; returns 1 if one could not be read (the frame before it stays)."""
    from ..explanations.video import VideoWriter
    from ..tasks.images import ImageError
    from . import console

    rate, failed = Fraction(fps).limit_denominator(1001), 0
    with VideoWriter(out, rate) as drawn:
        for place, path in enumerate(console.track(paths, "frames", device=model.mean.device)):
            try:
                drawn.add(explain_image(model, path, size=size).combined(), place / rate)
            except (ImageError, OSError) as error:
                print(f"sgformer: skipped: {error}", file=sys.stderr)
                failed += 1
    if failed == len(paths):
        raise ValueError(f"none of the {failed} frames could be read, so there is no video")
    print(f"{len(paths) - failed} frames -> {out}", flush=True)
    return int(failed > 0)


def explain_image(model: Kept, image: ImageLike, *, size: int | None = None) -> Explanation:
    """Explain what each pair of blocks of a loaded model does with an image, as arrays that can be drawn.

    ``size`` is the shorter side that the model sees, in pixels, 32 or more; None: that at which it evaluates.

    Raises:
        ImageError: The image cannot be read.
        ValueError: The model has no significance.
    """
    from .. import explanations as explain_

    read = model.preprocessing.read(image)
    return explain_.explain_image(model, model.preprocessing.show(read), model.prepare(read, size=size))


def save(explanation: Explanation, folder: Path) -> None:
    """Write every map of an image to a folder, and sheets of each stage and of it all."""
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    from ..explanations.explanation import VIEWS

    def write(image: Image.Image, name: str) -> None:
        # Little compression: three times as fast, and no more than a tenth larger.
        image.save(folder / f"{name}.png", compress_level=3)

    def draw(pair: Pair, view: str) -> None:
        drawn = Image.fromarray(pair.draw(explanation.image, view))
        write(drawn, f"stage{pair.stage}_pair{pair.number}_{view}")

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        written = [pool.submit(lambda: write(explanation.summary(), "summary"))]
        for stage, pairs in explanation.stages():
            written.append(pool.submit(lambda s=stage: write(explanation.stage_grid(s), f"stage{s}")))
            written += [pool.submit(draw, pair, view) for pair in pairs for view in VIEWS]
        for each in written:
            each.result()  # raises what went wrong
