"""Short videos for tests: a bright square that moves to the right over noise."""

from fractions import Fraction
from pathlib import Path

import numpy as np


def write_clip(path: Path, *, frames=12, size=(64, 96), rate=12, times=None, codec="mpeg4", sound=False):
    """Write a video of frames of (height, width), shown at `times` in seconds or `rate` a second."""
    import av

    times = [i / rate for i in range(frames)] if times is None else times
    height, width = size
    rng = np.random.default_rng(0)
    ground = rng.integers(20, 90, (height, width, 3), np.uint8)
    with av.open(str(path), "w") as container:
        if times:
            video = container.add_stream(codec, rate=rate)
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            video.bit_rate = 2_000_000
            if path.suffix != ".avi":  # which counts frames
                video.codec_context.time_base = Fraction(1, 60 * rate)
        if sound:
            audio = container.add_stream("aac", rate=44100)
            wave = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            wave.sample_rate = 44100
            for i in range(20):
                wave.pts = 1024 * i
                container.mux(audio.encode(wave))
            container.mux(audio.encode(None))
        for i, seconds in enumerate(times):
            image = ground.copy()
            image[height // 2 - 8 : height // 2 + 8, 3 + 6 * i : 19 + 6 * i] = (230, 210, 60)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(seconds * 60 * rate), Fraction(1, 60 * rate)
            container.mux(video.encode(frame))
        if times:
            container.mux(video.encode(None))
