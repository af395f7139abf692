"""Videos read and written a frame at a time, so that the memory needed does not grow with their length.

Needs PyAV (the extra ``video``), which is imported when a video is opened. Only images are read and written: sound is
left out.
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# What is written, the first that the installed FFmpeg has.
ENCODERS = ("libx264", "libopenh264", "mpeg4")
TICKS = 60_000  # a second: the frames of usual rates last whole numbers of them, and MPEG-4 counts no finer


class VideoError(ValueError):
    """A video that cannot be read or written; the message says what to do."""


class VideoReader:
    """The frames of a video, in a file that FFmpeg can read, with their times. A context manager.

    VideoError where it is no video, is damaged from the start, or has no moving image.
    """

    def __init__(self, path: str | Path) -> None:
        import av

        self._path, self._errors = path, av.FFmpegError
        try:
            self._container = av.open(str(path))
        except OSError as error:  # FFmpeg's own errors of the file system are such, too
            if not isinstance(error, av.FFmpegError) or Path(path).exists():
                raise self._unreadable(error) from error
            raise FileNotFoundError(error.errno, "there is no such video", str(path)) from error
        except av.FFmpegError as error:
            raise self._unreadable(error) from error
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(f"{path} has no video stream, only sound or text; give a file with moving images")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)  # frames a second
        self.length = self._length()  # how many frames there may be; None where the file does not say

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[tuple[Image.Image, Fraction]]:
        """Each frame upright in RGB, and the second at which it is shown; VideoError where the rest is damaged."""
        first, count = None, 0
        try:
            for frame in self._container.decode(self._stream):
                if frame.pts is None or frame.time_base is None:
                    seconds = count / self.rate + (first or 0)
                else:
                    seconds = frame.pts * frame.time_base
                first = seconds if first is None else first
                yield _upright(frame), seconds - first
                count += 1
        except self._errors as error:
            raise self._unreadable(error, after=count) from error
        if not count:
            raise VideoError(f"{self._path} has no frames; record or convert it again")

    def _length(self) -> int | None:
        duration, base = self._stream.duration or 0, self._stream.time_base or 0
        whole = Fraction(self._container.duration or 0, 1_000_000)
        return self._stream.frames or round((duration * base or whole) * self.rate) or None

    def _unreadable(self, error: Exception, *, after: int = 0) -> VideoError:
        reason = getattr(error, "strerror", None) or str(error)
        where = f" after {after} frames" if after else ""
        return VideoError(
            f"{self._path} cannot be read as a video{where} ({reason}); copy it again, or convert it, for instance by "
            "ffmpeg -i VIDEO -c:v libx264 new.mp4"
        )


class VideoWriter:
    """An MP4 file that is there once it is whole; an error before that leaves what was there. A context manager.

    `rate`, in frames a second, is for players; each frame is shown when it is told to be.
    """

    def __init__(self, path: Path, rate: Fraction = Fraction(25)) -> None:
        self.path, self.rate, self.num_frames = path, rate, 0
        self._draft = path.with_name(f".{path.name}.part")
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._container is None:
            return
        try:
            # What was read before a damaged place is worth having.
            if kind is None or issubclass(kind, VideoError):
                self._container.mux(self._stream.encode(None))
                self._container.close()
                os.replace(self._draft, self.path)
        finally:
            self._container.close()
            self._draft.unlink(missing_ok=True)

    def add(self, frame: NDArray[np.uint8], seconds: Fraction) -> None:
        """Write a frame `(height, width, 3)`, of the size of the first one, and the second when it is shown."""
        import av

        # The usual colour format has one colour for two by two pixels, so sides are even.
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        if not self.num_frames:
            self._open(frame.shape[0], frame.shape[1])
        if frame.shape[:2] != (self._stream.height, self._stream.width):
            image = Image.fromarray(frame).resize((self._stream.width, self._stream.height))
            frame = np.asarray(image)  # a recording may change its size; a file may not
        drawn = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._last = max(self._last + 1, round(seconds * TICKS))
        drawn.pts, drawn.time_base = self._last, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(drawn))
        self.num_frames += 1

    def _open(self, height: int, width: int) -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._draft), "w", format="mp4", options={"movflags": "faststart"})
        encoder = next(name for name in ENCODERS if name in av.codecs_available)
        self._stream = self._container.add_stream(encoder, rate=self.rate)
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        if encoder == "libx264":
            self._stream.options = {"crf": "20", "preset": "veryfast"}
        else:
            self._stream.bit_rate = round(height * width * float(self.rate) / 8)


def _upright(frame: Any) -> Image.Image:
    """A decoded frame as an image, turned as the recording says that it is to be shown."""
    image = frame.to_image()
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # against the clock
    return image.rotate(90 * turns, expand=True) if turns else image
