"""Training from Python: it is what the command line does, and what a pure function does."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import probe
import pytest
from conftest import OPTIONS, PROBE, SMALL

import envs_jax
import mamt_jax
from mamt_jax.cli import train
from mamt_jax.options import OptionError


@pytest.fixture
def run(finished_run: Path) -> mamt_jax.Run:
    return mamt_jax.open_run(finished_run)


def test_public_names():
    assert set(dir(mamt_jax)) == {*mamt_jax.__all__, "__version__"} and "train" in dir(mamt_jax)
    assert all(getattr(mamt_jax, name) for name in dir(mamt_jax))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mamt_jax.trian  # type: ignore[attr-defined]  # noqa: B018


def test_a_run_shows_what_it_is(run: mamt_jax.Run, tmp_path: Path):
    assert run.config["experiment"]["env"] == "probe:symbols" and run.config["experiment"]["env_options"] == {"num_agents": 3}
    rows = run.metrics()
    assert [(row["run"], row["env_steps"]) for row in rows] == [(r, s) for s in (0, 100, 200, 300) for r in range(4)]
    text = repr(run)
    assert "probe:make on probe:symbols, 4 runs, 60 of 60 episodes, eval_return" in text and "\n" not in text
    run.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000
    observation = jax.nn.one_hot(np.array([0, 1, 2]), 3)
    for policy in (run.policy(), mamt_jax.open_run(run.folder).policy("latest", run=1)):
        np.testing.assert_array_equal(policy(observation), [0, 1, 2])
    env = envs_jax.make(probe.symbols, num_agents=3)
    found = mamt_jax.evaluate(run.policy(), env, jax.random.key(0), episodes=20)
    assert found["return"] == 5.0 and found["return_se"] == 0.0 and found["task/named"] == 1.0


def test_python_does_what_the_command_line_does(run: mamt_jax.Run, tmp_path: Path):
    out = tmp_path / "typed"
    own = ["--seeds", "2", "--seed", "3", "--num-agents", "3", "--learning-rate", "0.1", "0.5"]
    assert train.main([*PROBE, *SMALL, *own, "--out", str(out)]) == 0
    typed = mamt_jax.open_run(out)
    for name in ("experiment", "algorithm_configs", "schedule", "spec"):
        assert typed.config[name] == run.config[name], name
    assert [row["eval_return"] for row in typed.metrics()] == [row["eval_return"] for row in run.metrics()]


def test_a_pure_function_trains_as_the_loop_does(run: mamt_jax.Run):
    trainer = mamt_jax.make_trainer(envs_jax.make(probe.symbols, num_agents=3), probe.make, evaluations=3, **OPTIONS)
    keys = jax.vmap(jax.random.key)(jnp.array([3, 4, 3, 4]))
    rates = jnp.array([0.1, 0.1, 0.5, 0.5])
    train_all = jax.vmap(lambda key, rate: trainer.train(key, trainer.config.replace(learning_rate=rate)))
    states, metrics = jax.jit(train_all)(keys, rates)
    for number in range(4):
        rows = [row for row in run.metrics() if row["run"] == number and row["env_steps"]]
        for name in ("eval_return", "eval_return_per_agent", "train_return", "task/named", "loss", "value"):
            expected = np.array([row[name] for row in rows], float)
            np.testing.assert_allclose(metrics[name][number], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    policy = trainer.policy(jax.tree.map(lambda leaf: leaf[0], states))
    np.testing.assert_array_equal(policy(jax.nn.one_hot(np.array([2, 1, 0]), 3)), [2, 1, 0])


@pytest.mark.slow
def test_objects_train_and_go_on_when_they_are_given_again(tmp_path: Path):
    env, folder = probe.symbols(), tmp_path / "object"
    run = mamt_jax.train(env, probe.make, out=folder, **{**OPTIONS, "episodes": 40})
    assert run.config["experiment"]["env"] == "<symbols>"
    with pytest.raises(ValueError, match="<symbols>"):
        mamt_jax.resume(folder, episodes=60)
    assert mamt_jax.resume(folder, episodes=60, env=env).metrics()[-1]["env_steps"] == 300
    assert json.loads((folder / "config.json").read_text())["experiment"]["training"]["episodes"] == 60


def test_a_callback_sees_each_evaluation_and_may_end_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    seen = []

    def callback(rows: list, policy: Callable) -> bool:
        action = policy(1)(jax.nn.one_hot(np.array([0, 1]), 3))
        seen.append(([(row["run"], row["episodes"]) for row in rows], action.shape))
        return rows[0]["episodes"] < 20

    run = mamt_jax.train(
        probe.symbols, probe.make, out=tmp_path / "run", learning_rate=[0.1, 0.5], callback=callback, **OPTIONS
    )
    assert seen == [([(0, 0), (1, 0)], (2,)), ([(0, 20), (1, 20)], (2,))]
    assert run.metrics()[-1]["env_steps"] == 100
    lines = [line for line in capsys.readouterr().out.splitlines() if "learning_rate 0.5, seed 0" in line]
    assert len(lines) == 2 and "return greedy" in lines[1] and "training" in lines[1]
    again = mamt_jax.resume(run.folder, env=probe.symbols, algo=probe.make, callback=lambda rows, policy: seen.append(rows))
    assert again.metrics()[-1]["episodes"] == 60 and [rows[0]["episodes"] for rows in seen[2:]] == [40, 60]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rat": 1.0}, r"there is no option learning_rat \(did you mean 'learning_rate'\?\)"),
        ({"temperature": "hot"}, "temperature: 'hot' is not valid: give a number"),
        ({"temperature": [0.1, -1.0]}, "temperature: -1 is not valid: give a number of at least 0"),
        ({"episodes": 0}, "episodes=0 is not valid: give a number of at least 1"),
        ({"num_envs": 2.5}, "num_envs: '2.5' is not valid: give a whole number"),
        ({"preset": "papr"}, "preset='papr' is not valid: give one of tuned, paper"),
    ],
)
def test_a_wrong_option_is_named(options: dict, message: str, tmp_path: Path):
    with pytest.raises(OptionError, match=message):
        mamt_jax.train(probe.symbols, probe.make, out=tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_one_function_is_refused():
    with pytest.raises(ValueError, match="evaluations=99 is not valid: give a number from 1 to 15"):
        mamt_jax.make_trainer(probe.symbols, probe.make, evaluations=99, **OPTIONS)
    with pytest.raises(ValueError, match="one value for each option"):
        mamt_jax.make_trainer(probe.symbols, probe.make, learning_rate=[0.1, 0.5], **OPTIONS)
