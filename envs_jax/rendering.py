"""Draws states as arrays, GIF files and MP4 files. Drawing runs on the host, never inside `jit`."""

import base64
import io
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from envs_jax.environment import Environment, EnvState
from envs_jax.scene import INK, Scene, Shape

CAPTION_HEIGHT = 24
FORMATS = (".gif", ".mp4")
SIZE = 480
PAUSE = 1.5
"""Seconds for which a film shows its last frame."""


class Film(NamedTuple):
    """Frames of a film, which a notebook shows as an animation.

    Attributes:
        frames: (time, height, width, 3) uint8.
        frames_per_second: playback speed.
    """

    frames: np.ndarray
    frames_per_second: float

    def __repr__(self) -> str:
        """Length and size."""
        time, height, width, _ = self.frames.shape
        return f"Film({time} frames of {width} x {height})"

    def _repr_html_(self) -> str:
        """HTML for Jupyter: the film as an embedded GIF."""
        file = io.BytesIO()
        _write_gif(self.frames, file, self.frames_per_second)
        return f'<img src="data:image/gif;base64,{base64.b64encode(file.getvalue()).decode()}">'


def render(
    env: Environment,
    states: EnvState,
    path: str | Path | None = None,
    frames_per_second: float | None = None,
    size: int = SIZE,
    **options: Any,
) -> Film | None:
    """Renders states, as `rollout` returns them, as a film.

    Args:
        env: environment of the states.
        states: states stacked along a leading time axis.
        path: GIF or MP4 file to write. If None, the film is returned, and a notebook shows it.
        frames_per_second: playback speed; None for the speed in the environment's `scene`.
        size: largest allowed length of the longer side, in pixels.
        **options: options of the environment's `scene`, such as `views=True` for the windows of Pursuit's pursuers.

    Raises:
        ValueError: if the environment has no `scene`, or if `path` has another extension.
    """
    made = film(env, states, frames_per_second, size, **options)
    if path is None:
        return made
    save(made.frames, path, made.frames_per_second)
    return None


def film(env: Environment, states: EnvState, frames_per_second: float | None = None, size: int = SIZE, **options: Any) -> Film:
    """Renders states as a Film. All frames show the same region, unless the scenes have a moving camera."""
    states = jax.device_get(states)
    length = len(jax.tree.leaves(states)[0])
    views = [scenes(env)(jax.tree.map(lambda leaf, t=t: leaf[t], states), **options) for t in range(length)]
    if not views[0].moving_camera:
        low = min(view.low[0] for view in views), min(view.low[1] for view in views)
        high = max(view.high[0] for view in views), max(view.high[1] for view in views)
        views = [view._replace(low=low, high=high) for view in views]
    return Film(np.stack([draw(view, size) for view in views]), frames_per_second or views[0].frames_per_second)


def frame(env: Environment, state: EnvState, size: int = SIZE, **options: Any) -> np.ndarray:
    """Draws one state, (height, width, 3) uint8. Height and width are even, and the longer side is at most `size`.

    `options` are passed to the environment's `scene`, such as `views=True` for the windows of Pursuit's pursuers.

    Raises:
        ValueError: if the environment has no `scene`.
    """
    return draw(scenes(env)(jax.device_get(state), **options), size)


def frames(env: Environment, states: EnvState, size: int = SIZE, **options: Any) -> np.ndarray:
    """Draws states that are stacked along a leading axis, (time, height, width, 3) uint8; see `frame`."""
    return film(env, states, size=size, **options).frames


def scenes(env: Environment) -> Callable[..., Scene]:
    """Returns the environment's `scene`; raises ValueError if it has none."""
    if env.scene is None:
        raise ValueError(f"{env.spec.name} cannot be drawn: give its Environment a `scene`, a function from states to a Scene.")
    return env.scene


def draw(scene: Scene, size: int) -> np.ndarray:
    """Draws a scene, (height, width, 3) uint8."""
    extent = np.subtract(scene.high, scene.low)
    scale = (size - CAPTION_HEIGHT) / extent.max()
    width, height = (2 * round(length * scale / 2) for length in extent)
    image = Image.new("RGB", (width, height + CAPTION_HEIGHT), "white")
    pen = ImageDraw.Draw(image, "RGBA")
    pen.rectangle((0, CAPTION_HEIGHT, width - 1, height + CAPTION_HEIGHT - 1), outline=INK)
    for shape in scene.shapes:
        draw_shape(pen, shape, scene, scale)
    pen.rectangle((0, 0, width, CAPTION_HEIGHT - 1), fill="white")
    pen.text((6, CAPTION_HEIGHT / 2), scene.caption, fill=INK, font=ImageFont.load_default(13), anchor="lm")
    return np.asarray(image)


def draw_shape(pen: ImageDraw.ImageDraw, shape: Shape, scene: Scene, scale: float) -> None:
    """Draws one shape and its label, which is black on light colours and white on dark ones."""
    x, y = (shape.x - scene.low[0]) * scale, (scene.high[1] - shape.y) * scale + CAPTION_HEIGHT
    radius = max(shape.radius * scale, 2.0)
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape.kind == "ring":
        pen.ellipse(box, outline=shape.colour, width=max(2, round(radius / 5)))
    elif shape.kind == "polygon":
        corners = [((a - scene.low[0]) * scale, (scene.high[1] - b) * scale + CAPTION_HEIGHT) for a, b in shape.corners]
        pen.polygon(corners, fill=shape.colour)
    elif shape.kind == "disc":
        pen.ellipse(box, fill=shape.colour)
    else:
        pen.rectangle(box, fill=shape.colour)
    if shape.label:
        red, green, blue = (int(shape.colour[i : i + 2], 16) for i in (1, 3, 5))
        readable = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 140 else "white"
        pen.text((x, y), shape.label, fill=readable, font=ImageFont.load_default(max(10.0, radius * 0.9)), anchor="mm")


def save(pictures: Sequence[np.ndarray] | np.ndarray, path: str | Path, frames_per_second: float = 10.0) -> None:
    """Writes frames as a film that pauses at its end: a GIF that repeats, or an MP4, which needs the extra `video`.

    Raises:
        ValueError: if `path` has another extension, if there are no frames, or if the extra is missing.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"path={str(path)!r} is not valid: give a name that ends with {' or '.join(FORMATS)}.")
    if not len(pictures):
        raise ValueError("pictures is empty: there are no frames to save. Give at least one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        _write_gif(pictures, path, frames_per_second)
        return
    save_mp4(np.stack(paused(pictures, frames_per_second)), path, frames_per_second)


def _write_gif(pictures: Sequence[np.ndarray] | np.ndarray, file: str | Path | io.BytesIO, frames_per_second: float) -> None:
    first, *rest = (Image.fromarray(picture) for picture in paused(pictures, frames_per_second))
    first.save(file, format="GIF", save_all=True, append_images=rest, duration=1000 / frames_per_second, loop=0)


def paused(pictures: Sequence[np.ndarray] | np.ndarray, frames_per_second: float) -> list[np.ndarray]:
    """The frames, followed by copies of the last one for the pause."""
    return [*pictures, *[pictures[-1]] * round(PAUSE * frames_per_second)]


def save_mp4(pictures: np.ndarray, path: Path, frames_per_second: float) -> None:
    """Writes H.264 video in an MP4 file with the ffmpeg of imageio-ffmpeg; raises ValueError if that is missing."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError as error:
        raise ValueError(
            f"{path} needs the extra `video`: install it with `pip install -e '.[video]'`, or give a name that ends with .gif."
        ) from error
    size = f"{pictures.shape[2]}x{pictures.shape[1]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(frames_per_second), "-i", "-"]
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, input=pictures.tobytes(), check=True)
