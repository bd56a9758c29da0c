"""PettingZoo environments in processes: what they show against the same environment by hand, faults, and training."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from conftest import RunPython
from PIL import Image
from symbols_in_processes import LIMIT, Symbols, make
from test_pettingzoo_episodes import FAULTS, Broken, Masked

from envs_jax import make as make_environment
from envs_jax.adapters import worker_processes
from envs_jax.adapters.from_pettingzoo import from_pettingzoo
from envs_jax.adapters.pettingzoo_environments import _make_multiwalker as make_walkers
from envs_jax.adapters.pettingzoo_episodes import episode_seed
from envs_jax.environment import Box, HostBatch, HostEnvironment, HostError, TimeStep
from envs_jax.registry import make_any
from envs_jax.rollout import play, play_host_episodes
from mamt_jax.cli import evaluate
from mamt_jax.training.host_training import Played, check_truncations, make_rollout, no_episode
from mamt_jax.training.run_folder import METRICS, read_rows

ROOT = Path(__file__).parents[1]
SEEDS = np.array([4, 5, 6, 7])


@functools.cache
def played(env: HostEnvironment, steps: int) -> tuple[np.ndarray, np.ndarray, TimeStep]:
    """First observation, actions and time steps (T, E, ...) of the environments of SEEDS."""
    batch, rng = env.open(len(SEEDS)), np.random.default_rng(0)
    try:
        first = np.asarray(batch.reset(SEEDS).observation)
        action = rng.integers(0, 3, (steps, len(SEEDS), env.spec.num_agents))
        return first, action, jax.tree.map(lambda *leaves: np.stack(leaves), *[batch.step(each) for each in action])
    finally:
        batch.close()


def by_hand(seed: int, action: np.ndarray) -> list[dict[str, Any]]:
    """What the environment of one seed does, told in the words of a TimeStep."""
    env, rows, episodes = Symbols(), [], 0
    env.reset(seed=int(seed))

    def pad(seen: dict[str, np.ndarray]) -> np.ndarray:
        flat = [seen.get(agent, np.zeros(0)).ravel() for agent in env.possible_agents]
        return np.stack([np.append(each, np.zeros(4 - each.size)) for each in flat])

    for joint in action:
        alive = env.agents
        seen, reward, terminated, truncated, _ = env.step({a: 7 + joint[env.possible_agents.index(a)] for a in alive})
        row = {"final_observation": pad(seen), "reward": [reward.get(a, 0.0) for a in env.possible_agents]}
        row["terminated"] = [terminated.get(a, True) for a in env.possible_agents]
        row["truncated"], row["named"] = any(truncated.values()), np.mean(list(reward.values()))
        episodes += not env.agents
        row["observation"] = pad(seen if env.agents else env.reset(seed=episode_seed(int(seed), episodes))[0])
        rows.append(row)
    return rows


SLOW = pytest.mark.slow
IN_TWO = make(processes=2)


@pytest.mark.parametrize(
    "env", [IN_TWO, *(pytest.param(make(processes=count), marks=SLOW) for count in (1, 3))], ids=lambda env: ""
)
def test_a_batch_shows_what_each_environment_does(env: HostEnvironment) -> None:
    assert env.spec.observation_sizes == (4, 3) and env.spec.action_sizes == (3, 3) and env.spec.name == "symbols"
    first, action, timestep = played(env, 17)
    assert first[:, 0, 3].tolist() == [0] * 4 and first[:, 0, :3].sum() == 4
    for number, seed in enumerate(SEEDS):
        for step, row in enumerate(by_hand(seed, action[:, number])):
            row["metrics"] = {"named": row.pop("named")}
            found = jax.tree.map(lambda leaf, at=(step, number): leaf[at], timestep._asdict())
            for name, value in row.items():
                jax.tree.map(np.testing.assert_allclose, found[name], value)
    assert timestep.truncated.any() and timestep.terminated.all(-1).any()
    alone = timestep.terminated[..., 1] & ~timestep.terminated[..., 0]
    assert alone.any() and not timestep.final_observation[1:][alone[:-1] & alone[1:]][:, 1].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("break", ["ZeroDivisionError", "symbols_in_processes.py"]),
        ("die", ["ended with code 3"]),
        ("hang", ["did not answer within 1 s"]),
    ],
)
def test_a_broken_process_is_reported_and_nothing_hangs(fault: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_processes, "SECONDS", 20.0 if fault != "hang" else 1.0)
    with pytest.raises(HostError) as failure:
        played(make(fault), 3)
    assert all(word in str(failure.value) for word in words), failure.value


def members(session: int) -> list[str]:
    """Command lines of the living processes of a session."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.info["cmdline"] or []))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("end", ["break", "die", "leave a process", "SIGKILL"])
def test_no_process_survives_its_command(end: str) -> None:
    script = f"""if __name__ == "__main__":
        import numpy as np, sys, time
        from symbols_in_processes import make
        batch = make({end!r} if {end!r} != "SIGKILL" else "leave a process").open(2)
        batch.reset(np.arange(2))
        batch.step(np.zeros((2, 2), int))
        print("stepped", flush=True)
        time.sleep(600 if {end!r} == "SIGKILL" else 0)
        batch.step(np.zeros((2, 2), int))
        sys.exit(5)"""
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command, options = [sys.executable, "-c", script], {"env": os.environ | paths, "start_new_session": True, "text": True}
    with TemporaryFile() as said, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, **options) as process:
        assert process.stdout and process.stdout.readline() == "stepped\n"
        if end == "SIGKILL":
            process.kill()
        code = process.wait(120)
        left = members(process.pid)
    assert code == {"SIGKILL": -9, "leave a process": 5}.get(end, 1)
    if end == "SIGKILL":  # whoever is killed cannot wait for the others
        deadline = time.monotonic() + 60
        while (left := members(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not left


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="processes=0"):
        from_pettingzoo(Symbols, LIMIT, processes=0)
    with pytest.raises(ValueError, match="give a function that makes the environment"):
        from_pettingzoo(Symbols(), LIMIT)  # pyright: ignore[reportArgumentType]


def test_short_episodes_do_not_count_more_often() -> None:
    def name_symbols(observation: jax.Array, key: jax.Array) -> jax.Array:
        return observation[:, :, :3].argmax(-1)

    env = make(processes=1)
    env = env._replace(spec=dataclasses.replace(env.spec, last_metrics=("named",)))
    episodes = play(env, name_symbols, jax.random.key(4), 24)  # two episodes of each of twelve
    seeds = np.random.SeedSequence(4).generate_state(12).astype(int)
    lengths = np.where((seeds[:, None] + np.arange(2)) % 2, 3, LIMIT).ravel()
    np.testing.assert_array_equal(episodes.episode_length, lengths)
    np.testing.assert_array_equal(episodes.episode_return[:, 0], lengths)
    np.testing.assert_array_equal(episodes.episode_return[:, 1], np.where(lengths == 3, 1, LIMIT))
    np.testing.assert_array_equal(episodes.metrics["named"], np.ones(24))


def test_metrics_are_means_or_last_values() -> None:
    spec = dataclasses.replace(IN_TWO.spec, last_metrics=("last",))
    shown = TimeStep(*(np.zeros((2, 2, 1)), np.ones((2, 2)), np.zeros((2, 2), bool), np.zeros(2, bool)), None, None, {})  # pyright: ignore[reportArgumentType]
    times = iter(range(1, 99))

    def step(action: np.ndarray) -> TimeStep:
        time = next(times)
        return shown._replace(truncated=np.array([time % 2 == 0, time % 3 == 0]), metrics=dict.fromkeys(("mean", "last"), time))  # pyright: ignore[reportArgumentType]

    batch = HostBatch(lambda seeds: shown, step, lambda: None)
    episodes = play_host_episodes(spec, batch, lambda timestep, step: np.zeros((2, 2), int), SEEDS[:2], 2)
    np.testing.assert_array_equal(episodes.episode_length, [[2, 2], [3, 3]])
    np.testing.assert_array_equal(episodes.metrics["mean"], [[1.5, 3.5], [2, 5]])
    np.testing.assert_array_equal(episodes.metrics["last"], [[2, 4], [3, 6]])


OWN = """
from functools import partial
from symbols_in_processes import Symbols
from envs_jax.adapters.from_pettingzoo import from_pettingzoo

class Mine(Symbols):
    pass

def factory():
    return from_pettingzoo(Mine, 5, processes=1)
"""
PLAY_OWN = """
import jax
from envs_jax import evaluate_policy, random_policy
from envs_jax.registry import make_any

if __name__ == "__main__":
    env = make_any("own_package.mine:factory")
    print(evaluate_policy(env, random_policy(env), jax.random.key(0), 2))
"""


@pytest.mark.slow
def test_processes_find_what_is_in_the_working_directory(tmp_path: Path, run_python: RunPython) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "mine.py").write_text(OWN)
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "PYTHONSAFEPATH": "1"}
    assert "return_per_agent" in run_python("-c", PLAY_OWN, cwd=tmp_path, **paths).stdout


def test_a_round_ends_as_if_truncated_and_counts_its_episodes() -> None:
    env = IN_TWO
    first, action, timestep = played(env, 17)
    action, timestep = jax.tree.map(lambda leaf: leaf[:6], (action, timestep))
    observation = np.concatenate([first[None], timestep.observation[:-1]])
    state: Any = type("State", (), {"env_batch": no_episode(env, 4)})
    arrays = jax.tree.map(jnp.asarray, Played(observation, None, action, timestep))
    after, seen = jax.jit(lambda played: make_rollout(env.spec, state, played))(arrays)
    np.testing.assert_array_equal(seen.transitions.next_observation, timestep.final_observation)
    np.testing.assert_array_equal(seen.truncated[:-1], timestep.truncated[:-1])
    np.testing.assert_array_equal(seen.truncated[-1], ~timestep.terminated[-1].all(-1))
    np.testing.assert_array_equal(after.observation, timestep.observation[-1])
    done = timestep.truncated | timestep.terminated.all(-1)
    whole = [timestep.reward[: np.flatnonzero(done[:, env])[-1] + 1, env].sum(0) for env in range(4)]
    assert int(seen.finished.episodes) == done.sum()
    np.testing.assert_allclose(seen.finished.episode_return, np.sum(whole, 0))
    with pytest.raises(HostError, match=r"truncated 1 times in 6 steps, more often than episode_limit=5 allows"):
        check_truncations(env, timestep, 0)


def masked(processes: int) -> HostEnvironment:
    return from_pettingzoo(partial(Masked, ("", "", "ab"), ("", "ab", "")), 9, processes=processes)


@pytest.mark.slow
def test_masks_and_who_acts_come_out_of_processes() -> None:
    env = masked(2)
    assert env.spec.has_action_masks
    batch = env.open(2)
    try:
        steps = [batch.reset(SEEDS[:2]), *(batch.step(np.zeros((2, 3), int)) for _ in range(2))]
    finally:
        batch.close()
    for step, now, last in zip(steps, (0, 1, 0), (0, 1, 2), strict=True):
        mask = [[action != (now + agent) % 3 for action in range(3)] for agent in range(2)]
        final = [[action != (last + agent) % 3 for action in range(3)] for agent in range(2)]
        assert step.final_action_mask is not None
        np.testing.assert_array_equal(step.action_mask[1], [*mask, [True] * 3])
        np.testing.assert_array_equal(step.final_action_mask[1], [*final, [True] * 3])
        np.testing.assert_array_equal(step.active, [[True, True, False]] * 2)
    assert [step.truncated.tolist() for step in steps] == [[False] * 2, [False] * 2, [True] * 2]


def test_what_a_process_refuses_is_one_sentence() -> None:
    with pytest.raises(HostError) as failure:
        batch = from_pettingzoo(partial(Broken, FAULTS["wide"][0]), 5, processes=1).open(1)
        batch.reset(SEEDS[:1])
    assert str(failure.value) == (
        "script: The observation of b is not valid: the space declares shape (2,), but the value has shape (5,)."
    )


def test_multiwalker_tells_its_time_limit_and_displacement() -> None:
    pytest.importorskip("Box2D")
    ends = []
    for limit, seed in ((4, 0), (200, 1)):
        env: Any = make_walkers({"max_cycles": limit})
        env.reset(seed=seed)
        start, told, rng = env.unwrapped.env.package.position.x, [], np.random.default_rng(seed)
        while env.agents:
            joint = {agent: rng.uniform(-1, 1, 4).astype(np.float32) for agent in env.agents}
            _, _, terminated, truncated, infos = env.step(joint)
            told.append(infos["walker_0"]["displacement"])
        ends.append((set(terminated.values()), set(truncated.values())))
        np.testing.assert_allclose(told[-1], env.unwrapped.env.package.position.x - start, rtol=1e-6)
        env.close()
    assert ends == [({False}, {True}), ({True}, {False})]


def test_its_spec_is_that_of_the_original_and_make_says_where_it_runs() -> None:
    pytest.importorskip("Box2D")
    env = make_any("pettingzoo/multiwalker", num_walkers=2)
    assert (env.spec.agent_names, env.spec.observation_sizes) == (("walker_0", "walker_1"), (31, 31))
    assert env.spec.action_spaces == (Box(4),) * 2 and env.spec.episode_limit == 500
    with pytest.raises(ValueError, match="'pettingzoo/multiwalker' runs outside JAX"):
        make_environment("pettingzoo/multiwalker")
    with pytest.raises(ValueError, match="terrain_length=0"):
        make_any("pettingzoo/multiwalker", terrain_length=0)


def test_any_module_with_a_parallel_env_is_found() -> None:
    env = make_any("pettingzoo/mpe2.simple_spread_v3", options={"N": 2, "max_cycles": 30})
    assert (env.spec.name, env.spec.episode_limit, env.spec.observation_sizes) == ("simple_spread_v3", 30, (12, 12))
    with pytest.raises(ValueError, match="cannot be imported"):
        make_any("pettingzoo/mpe2.simple_spred")
    with pytest.raises(ValueError, match="has no parallel_env"):
        make_any("pettingzoo/json")
    with pytest.raises(ValueError, match="Give episode_limit"):
        make_any("pettingzoo/symbols_in_processes")


def check_film(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained policy names its symbols, so that pictures of an episode are what its first seed draws."""
    assert evaluate.main([str(folder), "--gif", str(path), "--episodes", "2", "--seed", "4"]) == 0
    env, expected = Symbols(), []
    env.reset(seed=4)
    while env.agents:
        expected.append(env.render())
        env.step({agent: 7 + env.symbol[agent] for agent in env.agents})
    with Image.open(path) as film:
        for number, picture in enumerate(expected):
            film.seek(number)
            np.testing.assert_array_equal(np.asarray(film.convert("RGB")), picture)
        assert film.info["duration"] == 250
    monkeypatch.setattr(Symbols, "render", lambda self: None)
    assert evaluate.main([str(folder), "--gif", str(path), "--episodes", "2"]) == 2


@pytest.mark.slow
def test_training_in_processes_learns_is_repeatable_and_goes_on(
    tmp_path: Path, run_python: RunPython, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(__file__).parents[1] / "experiments" / "run.py"
    arguments = ["--env", "symbols_in_processes:make", "--algo", "probe:make", "--seeds", "2", "--episodes", "300"]
    arguments += ["--num-envs", "4", "--update-interval", "10", "--num-updates", "2", "--buffer-size", "400"]
    arguments += ["--batch-size", "32", "--evaluation-interval", "100", "--evaluation-episodes", "30"]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    for name in ("one", "two"):
        run_python(script, *arguments, "--out", tmp_path / name, **paths)
    rows, again = (read_rows(tmp_path / name / METRICS) for name in ("one", "two"))
    assert [row | {"wall_seconds": 0} for row in rows] == [row | {"wall_seconds": 0} for row in again]
    best = (LIMIT + (3 + 1) / 2) / 2
    assert all(row["eval_return"] == best and row["task/named"] == 1 for row in rows[-2:]), rows[-2:]
    assert rows[0]["eval_return"] < 0.9 * best
    check_film(tmp_path / "one", tmp_path / "film.gif", monkeypatch)

    content = json.loads((tmp_path / "two" / "config.json").read_text())
    content["experiment"]["training"]["episodes"] = 400
    (tmp_path / "two" / "config.json").write_text(json.dumps(content))
    run_python(script, "--resume", tmp_path / "two", **paths)
    rows = read_rows(tmp_path / "two" / METRICS)
    assert rows[-1]["eval_return"] == best and rows[-1]["env_steps"] >= 400 * LIMIT
