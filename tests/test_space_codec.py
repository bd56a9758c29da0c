"""Foreign spaces as plain data: flattening against Gymnasium's, actions and masks there and back, JSON, refusals."""

import dataclasses
import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.spaces.utils import flatten
from hypothesis import given, settings
from hypothesis import strategies as st
from unlike_agents import DISCRETE

from envs_jax import environment
from envs_jax.adapters.space_codec import (
    SpaceError,
    decoder,
    encoder,
    flat_size,
    flattener,
    learning_space,
    mask_reader,
    native_space,
)
from envs_jax.native_spaces import space_from_json, space_to_json
from mamt_jax.training.run_folder import spec_from_json, spec_to_json

SHAPES = st.sampled_from([(), (1,), (3,), (2, 2), (1, 3)])


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    shape = draw(SHAPES)
    dtype: Any = draw(st.sampled_from([np.float32, np.float64, np.float16, np.uint8, np.int8, np.int64, np.bool_]))
    kind, alike = np.dtype(dtype).kind, draw(st.booleans())
    ends = {"f": (-50, 50), "b": (0, 1), "u": (0, 255), "i": (-100, 100)}[kind]
    number = st.integers(*ends) if kind != "f" else st.floats(*ends, width=16)
    low, high = (np.array(draw(number)) if alike else _array(draw, number, shape) for _ in range(2))
    low, high = (np.broadcast_to(bound, shape).astype(dtype) for bound in (np.minimum(low, high), np.maximum(low, high)))
    return Box(low, high, shape, dtype)


def _array(draw: st.DrawFn, number: st.SearchStrategy, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    return np.array(draw(st.lists(number, min_size=size, max_size=size))).reshape(shape)


discretes = st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 6), st.integers(-9, 9))
multis = st.one_of(
    st.builds(
        lambda nvec, start: MultiDiscrete(nvec, start=[start] * len(nvec)),
        st.lists(st.integers(1, 4), min_size=1, max_size=3),
        st.integers(-3, 3),
    ),
    st.builds(MultiBinary, st.sampled_from([1, 3, (2, 2)])),
    st.just(MultiDiscrete(np.array([[2, 3], [1, 2]]))),
)
actions = st.one_of(boxes(), discretes, multis)
observations = st.recursive(
    st.one_of(actions, st.just(Text(4, charset="abc")), st.just(Box(-np.inf, np.inf, (2,)))),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("xyz"), inner, min_size=1).map(Dict), st.lists(inner, min_size=1, max_size=3).map(Tuple)
    ),
    max_leaves=4,
)


@settings(deadline=None, max_examples=150)
@given(observations, st.integers(0, 99))
def test_observations_are_flattened_as_by_gymnasium(space: gymnasium.Space, seed: int) -> None:
    native = native_space(space)
    assert space_from_json(json.loads(json.dumps(space_to_json(native)))) == native
    space.seed(seed)
    sample = space.sample()
    flat = flattener(native)(sample)
    assert flat.shape == (flat_size(native),) and flat.dtype == np.float32
    np.testing.assert_array_equal(flat, np.asarray(flatten(space, sample), np.float32))


@settings(deadline=None, max_examples=300)
@given(actions, st.integers(0, 99))
def test_actions_are_of_the_space_and_come_back(space: gymnasium.Space, seed: int) -> None:
    native = native_space(space)
    own, decode, encode = learning_space(native), decoder(native), encoder(native)
    space.seed(seed)
    sample = space.sample()
    encoded = encode(sample)
    again = decode(np.append(encoded, [9.0, 9.0]) if isinstance(own, environment.Box) else encoded)  # padded
    assert space.contains(again) or space.contains(np.asarray(again)), again
    exact = not isinstance(space, Box) or space.dtype.kind != "f" or own == environment.Box(encoded.size, *_ends(space))
    close = np.testing.assert_array_equal if exact and space.dtype != np.float64 else _close
    close(again, sample)
    if isinstance(own, environment.Box):
        for end, bound in ((-np.inf, space.low), (np.inf, space.high)):  # pyright: ignore[reportAttributeAccessIssue]
            np.testing.assert_array_equal(decode(np.full(own.size, end, np.float32)), bound)


def _ends(space: Box) -> tuple[float, float]:
    return float(space.low.flat[0]), float(space.high.flat[0])


def _close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(np.float64(a), np.float64(b), atol=2e-2 if np.asarray(a).dtype == np.float16 else 1e-4)


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(0, 4, np.int64), (-2, 2, np.int8), ([0, 7], [4, 9], np.uint8), (0, 1, np.bool_)]
)
def test_integers_of_a_box_are_equally_likely(low: Any, high: Any, dtype: Any) -> None:
    space = Box(np.broadcast_to(low, 2).astype(dtype), np.broadcast_to(high, 2).astype(dtype), dtype=dtype)
    native = native_space(space)
    own, decode = learning_space(native), decoder(native)
    assert isinstance(own, environment.Box)
    even = own.low + (np.arange(300) + 0.5) / 300 * (own.high - own.low)
    drawn = np.stack([decode(np.array([value, value], np.float32)) for value in even]).astype(int)
    for column, first, last in zip(drawn.T, *(np.broadcast_to(bound, 2) for bound in (low, high)), strict=True):
        values, counts = np.unique(column, return_counts=True)
        assert values.tolist() == list(range(int(first), int(last) + 1))
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (Box(-1, 1, (3,)), np.zeros(5), "shape (3,), but the value has shape (5,)"),
        (Box(-1, 1, (3,)), 0.5, "shape (3,), but the value has shape ()"),
        (Box(-1, 1, (2, 3)), np.zeros((3, 2)), "shape (2, 3), but the value has shape (3, 2)"),
        (Box(-1, 1, (3,)), None, "the value is None"),
        (Box(-1, 1, (3,)), [[1], [2, 3]], "an array of numbers is expected"),
        (Box(0, 9, (3,), np.uint8), np.full(3, 0.9), "declares uint8, but the value contains 0.9"),
        (Box(0, 9, (3,), np.uint8), [0, -1, 0], "declares uint8, but the value contains -1"),
        (Box(0, 9, (3,), np.int64), np.full(3, np.nan), "declares int64, but the value contains nan"),
        (Discrete(3, start=5), 8, "declares integers from 5 to 7, but the value is 8"),
        (Discrete(3), -1, "declares integers from 0 to 2, but the value is -1"),
        (Discrete(3), 1.5, "the value contains 1.5"),
        (MultiDiscrete([2, 3]), [1, 3], "declares integers from 0 to 2, but the value is 3"),
        (MultiBinary(2), [0, 2], "declares zeros and ones, but the value contains 2"),
        (Text(2, charset="ab"), "abc", "declares a text of at most 2 characters from"),
        (Dict(x=Discrete(2), y=Discrete(2)), {"x": 1}, "declares a dict with 'x', 'y', but the value is a dict with 'x'"),
        (Dict(x=Discrete(2)), np.zeros(2), "declares a dict with 'x', but"),
        (Tuple([Discrete(2)]), (1, 1), "declares a tuple of length 1, but"),
        (
            Dict(x=Tuple([Discrete(2)])),
            {"x": (2,)},
            "in its entry 'x', in its entry 0, the space declares integers from 0 to 1",
        ),
    ],
)
def test_what_is_not_of_a_space_is_refused(space: gymnasium.Space, value: Any, words: str) -> None:
    with pytest.raises(SpaceError) as failure:
        flattener(native_space(space))(value)
    assert words in str(failure.value) and str(failure.value).endswith(".") and "\n" not in str(failure.value)


def test_harmless_forms_are_taken() -> None:
    np.testing.assert_array_equal(flattener(native_space(Box(-1, 1, (1,))))(0.5), [0.5])
    np.testing.assert_array_equal(flattener(native_space(Box(-1, 1, (2,))))([[0.5, 1]]), [0.5, 1])
    np.testing.assert_array_equal(flattener(native_space(Discrete(2)))(np.float64(1.0)), [0, 1])


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Box(-np.inf, np.inf, (2,)), "a Box with bounds"),
        (Box(0, np.inf, (2,)), "a Box with bounds"),
        (Box(-(2**62), 2**62, (1,), np.int64), "from -2**53 to 2**53"),
        (MultiDiscrete([10, 10, 100]), "10000 combinations (10 x 10 x 100), but at most 4096"),
        (MultiBinary(13), "8192 combinations"),
        (Dict(x=Discrete(2)), "it must be Discrete, MultiDiscrete, MultiBinary, or a Box"),
        (Text(2), "it must be Discrete"),
    ],
)
def test_actions_that_no_algorithm_takes_are_refused(space: gymnasium.Space, words: str) -> None:
    with pytest.raises(SpaceError) as failure:
        learning_space(native_space(space))
    assert words in str(failure.value)
    with pytest.raises(SpaceError, match="is not supported. The supported spaces are Box, Discrete"):
        native_space(gymnasium.spaces.Sequence(Discrete(2)))


def test_masks_of_components_are_joined() -> None:
    read = mask_reader(native_space(MultiDiscrete([2, 3], start=[4, 0])))
    joint = [[True, False, True], [False] * 3]
    np.testing.assert_array_equal(read(([1, 0], np.array([1, 0, 1], np.int8))), np.ravel(joint))
    np.testing.assert_array_equal(read(np.array([1, 0, 1, 0, 1])), np.ravel(joint))
    assert read(np.zeros(5)).all()  # whoever may do nothing may do anything
    np.testing.assert_array_equal(mask_reader(native_space(Discrete(3, start=5)))([True, False, True]), [True, False, True])
    for mask, words in (([1, 0], "shape (3,), but the value has shape (2,)"), ([1, 0, 2], "zeros and ones"), ("abc", "'abc'")):
        with pytest.raises(SpaceError) as failure:
            mask_reader(native_space(Discrete(3)))(mask)
        assert words in str(failure.value)
    with pytest.raises(SpaceError, match="only discrete actions can be masked"):
        mask_reader(native_space(Box(-1, 1, (2,))))


def test_a_spec_is_stored_whole_and_old_ones_stay_readable() -> None:
    spaces = tuple(native_space(each) for each in (Dict(x=Box(0, 1, (2,)), y=Discrete(2)), Box(-1, 1, (2, 2)), Text(3)))
    actions = tuple(native_space(Discrete(n)) for n in DISCRETE.action_sizes)
    native = {"native_observation_spaces": spaces, "native_action_spaces": actions, "has_action_masks": True}
    spec = dataclasses.replace(DISCRETE, **native)
    content = json.loads(json.dumps(spec_to_json(spec)))
    assert spec_from_json(content) == spec and hash(spec_from_json(content)) == hash(spec)
    for name in ("native_action_spaces", "native_observation_spaces", "has_action_masks"):
        content.pop(name)
    assert spec_from_json(content) == DISCRETE
