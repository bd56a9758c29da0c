"""Pictures of every environment, and films of them."""

import base64
import functools
import io
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image, ImageSequence

from envs_jax import make, render
from envs_jax.reference_policies import sample_action
from envs_jax.rendering import CAPTION_HEIGHT, draw, frame, frames, save
from envs_jax.scene import COLOURS, Scene, Shape


@functools.cache
def states(name: str, length: int = 4) -> tuple[Any, Any]:
    """An environment and states of it after one random step."""
    env = make(name)

    def play(key: jax.Array) -> Any:
        reset_key, action_key, step_key = jax.random.split(key, 3)
        state, timestep = env.reset(reset_key)
        return env.step(step_key, state, sample_action(env.spec, action_key, timestep.action_mask))[0]

    program = jax.jit(jax.vmap(play), compiler_options={"xla_backend_optimization_level": 0})
    return env, program(jax.random.split(jax.random.key(0), length))


@pytest.mark.parametrize(
    "name",
    [
        "spread",
        "rover_tower",
        "pursuit",
        "matrix_game",
        "repeat_first",
        pytest.param("multiwalker", marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_every_environment_has_a_picture(name: str) -> None:
    env, several = states(name)
    film = frames(env, several, size=240)
    assert film.dtype == np.uint8 and film.shape[0] == 4 and film.shape[-1] == 3
    assert 240 - CAPTION_HEIGHT <= max(film.shape[1:3]) <= 240 and not any(side % 2 for side in film.shape[1:3])
    assert (film[:1] != film).any()
    colours = {tuple(pixel) for pixel in frame(env, jax.tree.map(lambda leaf: leaf[0], several)).reshape(-1, 3)}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours  # agents 0 and 1


def test_shapes_stand_where_they_are() -> None:
    scene = Scene((0.0, 0.0), (10.0, 5.0), [Shape("square", 2.0, 4.0, 0.5, "#FF0000"), Shape("disc", 8.0, 1.0, 0.5, "#0000FF")])
    picture = draw(scene, 224)
    assert picture.shape == (124, 200, 3)
    for colour, place in (((255, 0, 0), (2.0, 4.0)), ((0, 0, 255), (8.0, 1.0))):
        row, column = np.argwhere((picture == colour).all(-1)).mean(0)
        np.testing.assert_allclose((column / 20, 5 - (row - 24) / 20), place, atol=0.05)


def test_pursuers_views_are_shown_on_request() -> None:
    env, several = states("pursuit")
    state = jax.tree.map(lambda leaf: leaf[0], several)
    without, with_views = frame(env, state), frame(env, state, views=True)
    assert (without != with_views).any(-1).mean() > 0.3


def read_film(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if path.suffix == ".gif":
        with Image.open(path) as film:
            return np.stack([np.asarray(each.convert("RGB")) for each in ImageSequence.Iterator(film)])
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8).reshape(shape)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_films_can_be_read_again(tmp_path: Path, suffix: str) -> None:
    env, several = states("spread")
    film = frames(env, several, size=160)
    assert render(env, several, tmp_path / f"film{suffix}", frames_per_second=5.0, size=160) is None
    again = read_film(tmp_path / f"film{suffix}", (-1, *film.shape[1:]))
    assert again.shape[1:] == film.shape[1:]
    assert np.abs(again[: len(film)].astype(float) - film).mean() < 8


def test_a_film_pauses_on_its_last_frame(tmp_path: Path) -> None:
    first, last = (np.full((8, 8, 3), shade, np.uint8) for shade in (0, 255))
    save([first, last], tmp_path / "film.gif", frames_per_second=4.0)
    with Image.open(tmp_path / "film.gif") as film:
        assert [each.info["duration"] for each in ImageSequence.Iterator(film)] == [250, 250 + 6 * 250]


def test_a_moving_camera_shows_each_frame_its_own_place() -> None:
    env, _ = states("spread")
    square = Shape("square", 0.0, 0.0, 0.5, "#FF0000")

    def scene(position: np.ndarray) -> Scene:
        x = float(position)
        return Scene((x - 1, -1.0), (x + 1, 1.0), [square._replace(x=x)], moving_camera=True)

    film = frames(env._replace(scene=scene), np.array([0.0, 5.0]))
    np.testing.assert_array_equal(film[0], film[1])


def test_pursuers_on_one_cell_are_all_seen() -> None:
    env, several = states("pursuit")
    state = jax.tree.map(lambda leaf: leaf[0], several)
    picture = frame(env, state.replace(pursuer_position=np.zeros_like(state.pursuer_position)), 1000)
    assert {tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in COLOURS} <= {tuple(p) for p in picture.reshape(-1, 3)}


def test_a_notebook_shows_a_film_without_a_file() -> None:
    env, several = states("spread")
    film = render(env, several, size=160)
    assert film is not None and repr(film) == "Film(4 frames of 136 x 160)"
    content = film._repr_html_().removeprefix('<img src="data:image/gif;base64,').removesuffix('">')
    with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as gif:
        assert [each.size for each in ImageSequence.Iterator(gif)] == [(136, 160)] * 4


def test_what_cannot_be_drawn_says_why(tmp_path: Path) -> None:
    env, several = states("spread")
    with pytest.raises(ValueError, match="spread cannot be drawn: give its Environment a `scene`"):
        frames(env._replace(scene=None), several)
    with pytest.raises(ValueError, match="give a name that ends with .gif or .mp4"):
        save(np.zeros((1, 8, 8, 3), np.uint8), tmp_path / "film.png")
    with pytest.raises(ValueError, match="no frames"):
        save([], tmp_path / "film.gif")
