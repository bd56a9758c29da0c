"""Training on the probe: it learns, counts right, traces once, and is the same alone, side by side and on several devices."""

import dataclasses
import functools
import io
import json
import math
import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probe
import pytest
from conftest import PROBE, SMALL
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from envs_jax.environment import Environment
from mamt_jax.cli import train as run
from mamt_jax.training import learning_curve, loop
from mamt_jax.training import vectorized as runs_module
from mamt_jax.training.checkpoint import latest_checkpoint
from mamt_jax.training.config import TrainingConfig, make_schedule, validate
from mamt_jax.training.console import Display
from mamt_jax.training.experiment import Experiment, build, experiment_from_json, experiment_to_json
from mamt_jax.training.loop import CPU_OPTIONS, compile_with, slice_iterations, train
from mamt_jax.training.memory import (
    MemoryPlan,
    available_bytes,
    cgroup_available,
    explaining_exhaustion,
    in_words,
    runs_that_fit,
    temporary_bytes,
)
from mamt_jax.training.references import Reference
from mamt_jax.training.run_folder import CONFIG, METRICS, read_rows, write_json
from mamt_jax.training.session import Counters, Session, open_session, plan_memory, restore, save
from mamt_jax.training.vectorized import (
    Runs,
    RunState,
    devices_per_run,
    even_shares,
    make_runs,
    pad_runs,
    padded_runs,
    run_keys,
    stack_configs,
)

TINY = TrainingConfig(
    episodes=100,
    num_envs=4,
    update_interval=10,
    num_updates=2,
    buffer_size=200,
    batch_size=32,
    evaluation_interval=20,
    evaluation_episodes=30,
)


def experiment(runs: Sequence[dict[str, Any]] = ({"seed": 0},), training: TrainingConfig = TINY, **algo_options) -> Experiment:
    return Experiment("probe:symbols", "probe:make", {"num_agents": 3}, algo_options, tuple(runs), training)


def session(what: Experiment, folder: Path) -> Session:
    write_json(folder / CONFIG, {"experiment": experiment_to_json(what)})
    return open_session(what, build(what), folder, {"random": Reference(5 / 3)})


@functools.cache
def programs(training: TrainingConfig, num_runs: int, num_devices: int) -> Runs:
    """The probe's programs for any hyperparameters. They are sharded over all devices, so the cache needs to know how many."""
    del num_devices
    built = build(experiment(training=training))
    assert isinstance(built.env, Environment)
    return make_runs(built.env, built.algorithm, training, built.schedule, num_runs)


def trained(what: Experiment, iterations: Sequence[int] = (20,)) -> RunState:
    """States after so many iterations at a time, padded."""
    num_runs = padded_runs(len(what.runs))
    runs = programs(what.training, num_runs, len(jax.local_devices()))
    wanted = stack_configs(build(what).configs), run_keys([run["seed"] for run in what.runs])
    configs, keys = pad_runs(wanted, num_runs)
    states, done = runs.init(configs, keys), 0
    for count in iterations:
        states, done = runs.advance(configs, states, done, count), done + count
    return states


@given(st.integers(1, 50), st.integers(1, 300), st.integers(1, 20), st.integers(50, 1000))
def test_an_iteration_is_the_smallest_with_the_asked_ratio(
    num_envs: int, update_interval: int, num_updates: int, episodes: int
):
    config = TrainingConfig(episodes=episodes, num_envs=num_envs, update_interval=update_interval, num_updates=num_updates)
    schedule = make_schedule(config, episode_limit=25)
    assert Fraction(schedule.updates, schedule.transitions) == Fraction(num_updates, update_interval)
    assert np.gcd(schedule.updates, schedule.rollout_length) == 1
    assert schedule.transitions == schedule.rollout_length * num_envs
    assert 0 <= schedule.env_steps(schedule.total_iterations) - episodes * 25 < schedule.transitions


def test_the_paper_has_25_steps_and_12_updates():
    schedule = make_schedule(TrainingConfig(), episode_limit=25)
    assert (schedule.rollout_length, schedule.updates, schedule.transitions) == (25, 12, 300)
    assert schedule.warmup_iterations * 300 < 1024 <= (schedule.warmup_iterations + 1) * 300
    assert schedule.num_updates(schedule.total_iterations) == (schedule.total_iterations - 3) * 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 300}, "batch_size=300 is larger than buffer_size=200: lower batch_size to at most 200"),
        ({"num_envs": 0}, "num_envs=0 is not valid: give a number of at least 1"),
        ({"seed": 2**31}, "seed=2147483648 is not valid: give a number of at most 2147483647"),
        ({"seed": -1}, "seed=-1 is not valid: give a number of at least 0"),
        ({"episodes": 3}, "episodes=3 is fewer than num_envs=4"),
        ({"checkpoint_minutes": float("nan")}, "checkpoint_minutes=nan is not valid"),
        ({"batch_size": 150, "episodes": 20}, "before the replay memory holds one batch of batch_size=150: give episodes=32"),
    ],
)
def test_bad_settings_are_named(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        validate(dataclasses.replace(TINY, **change), episode_limit=5)


def test_it_learns_and_files_what_it_saw(tmp_path: Path):
    what = experiment([{"seed": 4}, {"seed": 5}])
    output = io.StringIO()
    assert train(session(what, tmp_path), Console(file=output, width=200)) is None
    rows = read_rows(tmp_path / METRICS)
    schedule = build(what).schedule
    assert [(row["run"], row["seed"]) for row in rows[:2]] == [(0, 4), (1, 5)]
    assert [row["env_steps"] for row in rows[::2]] == [0, 100, 200, 300, 400, 500]
    assert [row["episodes"] for row in rows[::2]] == [0, 20, 40, 60, 80, 100]
    assert [row["updates"] for row in rows[::2]] == [schedule.num_updates(iterations) for iterations in range(0, 26, 5)]
    for row in rows[-2:]:
        assert row["eval_return"] == pytest.approx(5.0)
        assert row["eval_return_per_agent"] == pytest.approx([5.0] * 3)
        assert row["task/named"] == pytest.approx(1.0)
        assert 4.0 < row["train_return"] < 5.0 and 4.0 < row["eval_return_sampled"] < 5.0
        assert row["update"] == np.mean(range(rows[-3]["updates"], row["updates"]))
        assert np.shape(row["value"]) == (3,)
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000
    text = output.getvalue()
    assert "compiled training in" in text and text.count("return greedy") == 12
    assert "seed 4  return greedy 5.0, sampled" in text and "seed 5  return greedy 5.0, sampled" in text


def test_evaluations_may_be_of_policies_that_sample(tmp_path: Path):
    output = io.StringIO()
    sampling = dataclasses.replace(TINY, evaluation_policy="sampled")
    assert train(session(experiment(training=sampling), tmp_path), Console(file=output, width=200)) is None
    last = read_rows(tmp_path / METRICS)[-1]
    assert 4.0 < last["eval_return"] < 5.0 and 4.0 < last["eval_return_sampled"] < 5.0
    assert output.getvalue().count("return sampled") == 6 and "greedy" not in output.getvalue()


@pytest.mark.slow
def test_a_thread_trains_as_the_main_thread_does(tmp_path: Path):
    ends: list[int | None] = []
    for name in ("main", "thread"):
        (tmp_path / name).mkdir()
        opened = session(experiment(), tmp_path / name)
        thread = threading.Thread(target=lambda opened=opened: ends.append(train(opened, Console(file=io.StringIO()))))
        thread.start() if name == "thread" else thread.run()
        if name == "thread":
            thread.join()
    assert ends == [None, None]
    rows, same = ([row | {"wall_seconds": 0} for row in read_rows(tmp_path / name / METRICS)] for name in ("main", "thread"))
    assert rows == same and len(rows) == 6


@pytest.mark.slow
def test_one_trace_a_run(tmp_path: Path):
    def traces(training: TrainingConfig, folder: str) -> dict[str, int]:
        before = dict(probe.TRACES)
        (tmp_path / folder).mkdir()
        opened = session(experiment(training=training), tmp_path / folder)
        plan_memory(opened)
        train(opened, Console(file=io.StringIO()))
        return {name: count - before[name] for name, count in probe.TRACES.items()}

    short = traces(TINY, "short")
    long = traces(dataclasses.replace(TINY, episodes=140, evaluation_interval=28, checkpoint_minutes=0), "long")
    assert long == short
    assert short["update"] == 1, "the memory plan and the shapes of its metrics are those of the program that is compiled"


def test_slices_make_no_difference():
    at_once, sliced = trained(experiment(), [20]), trained(experiment(), [1, 2, 17])
    jax.tree.map(np.testing.assert_array_equal, arrays(at_once), arrays(sliced))


def test_what_was_saved_continues_bit_for_bit(tmp_path: Path):
    what, saved = experiment(), Counters(iterations=10, episodes=(40,), wall_seconds=1.0, halts=(None,), evaluated=10)
    opened = session(what, tmp_path)
    save(opened, trained(what, [10]), saved)
    states, counters = restore(opened, Display(Console(quiet=True), TINY.episodes))
    assert counters == saved
    runs = programs(TINY, len(opened.keys), len(jax.local_devices()))
    continued, unbroken = runs.advance(opened.configs, states, 10, 10), trained(what, [20])
    jax.tree.map(np.testing.assert_array_equal, arrays(continued), arrays(unbroken))


def test_runs_do_not_touch_each_other():
    rates = (0.1, 0.5, 0.9)
    together = arrays(trained(experiment([{"seed": 7, "learning_rate": rate} for rate in rates])))
    for number, rate in enumerate(rates):
        alone = arrays(trained(experiment([{"seed": 7}], learning_rate=rate)))
        jax.tree.map(lambda a, b, n=number: np.testing.assert_allclose(a[n], b[0], rtol=2e-5, atol=1e-6), together, alone)
    assert np.unique(together.learner_state.value[:, 0, 0, 0]).size == 3


@pytest.mark.slow
def test_two_devices_do_what_one_does(monkeypatch: pytest.MonkeyPatch):
    what = experiment([{"seed": seed} for seed in range(4)])
    states = trained(what)
    assert len(states.learner_state.value.sharding.device_set) == 2
    monkeypatch.setattr(runs_module.jax, "local_devices", lambda: jax.devices()[:1])
    alone = trained(what)
    assert len(alone.learner_state.value.sharding.device_set) == 1
    assert {leaf.sharding for leaf in jax.tree.leaves(trained(what, []))} == {runs_module.runs_sharding(len(what.runs))}, (
        "what was compiled for a new run would not serve a resumed one"
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), arrays(states), arrays(alone))


@given(st.integers(1, 100), st.integers(1, 16))
def test_shares_are_even_and_small(num_runs: int, num_devices: int):
    used, share = even_shares(num_runs, num_devices)
    assert used <= num_devices and (share - 1) * num_devices < num_runs
    assert (used - 1) * share < num_runs <= used * share
    assert even_shares(used * share, num_devices) == (used, share)


@given(st.integers(1, 20), st.integers(1, 12), st.integers(1, 16), st.integers(0, 16))
def test_devices_share_a_run_if_some_are_left(num_runs: int, num_envs: int, num_devices: int, wanted: int):
    config = TrainingConfig(num_envs=num_envs, devices_per_run=wanted)
    found = {}
    for platform in ("cpu", "gpu"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                runs_module.jax, "local_devices", lambda kind=platform: [SimpleNamespace(platform=kind)] * num_devices
            )
            found[platform] = devices_per_run(num_runs, config)
    used, _ = even_shares(num_runs, num_devices)
    for count in found.values():
        assert num_envs % count == 0 and used * count <= num_devices and (not wanted or count <= wanted)
    larger = [n for n in range(found["gpu"] + 1, num_devices // used + 1) if num_envs % n == 0]
    assert all(wanted and n > wanted for n in larger), "no device that could help is idle"
    assert found["cpu"] == (found["gpu"] if wanted else 1)


@pytest.mark.slow
def test_what_pads_the_runs_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    what = experiment([{"seed": seed} for seed in range(3)])
    folders = tmp_path / "padded", tmp_path / "alone"
    for folder, num_devices in zip(folders, (2, 1), strict=True):
        monkeypatch.setattr(runs_module.jax, "local_devices", lambda count=num_devices: jax.devices()[:count])
        folder.mkdir()
        opened = session(what, folder)
        assert (len(opened.keys), opened.runs.sharding.num_devices) == ((4, 2) if num_devices == 2 else (3, 1))
        assert train(opened, Console(quiet=True)) is None
    padded, alone = (read_rows(folder / METRICS) for folder in folders)
    assert [(row["run"], row["env_steps"]) for row in padded] == [(row["run"], row["env_steps"]) for row in alone]
    assert [row["eval_return"] for row in padded] == pytest.approx([row["eval_return"] for row in alone], rel=1e-4)
    with np.load(latest_checkpoint(folders[0] / "checkpoints")) as archive:
        assert {archive[name].shape[0] for name in archive.files if archive[name].ndim} == {3}


def test_warm_up_only_collects():
    what = experiment(training=dataclasses.replace(TINY, batch_size=100))
    start, warm, after = (trained(what, [iterations]) for iterations in (0, 4, 5))
    np.testing.assert_array_equal(start.learner_state.value, warm.learner_state.value)
    assert warm.sums.episodes.episodes == 16 and warm.learner_state.updates == 0
    assert after.learner_state.updates == after.sums.updates == 4


def test_slices_end_at_warm_up_and_evaluations(tmp_path: Path):
    what = experiment(training=dataclasses.replace(TINY, batch_size=130))
    opened = session(what, tmp_path)
    assert opened.built.schedule.warmup_iterations == 6 and opened.built.schedule.evaluation_iterations == 5
    assert [slice_iterations(opened, iterations, None) for iterations in (0, 5, 6)] == [5, 1, 1]
    assert [slice_iterations(opened, iterations, 0.01) for iterations in (6, 7, 10, 24)] == [4, 3, 5, 1]
    assert [slice_iterations(opened, iterations, 2.0) for iterations in (6, 9, 10)] == [2, 1, 2]


def test_memory_is_planned_to_the_byte(tmp_path: Path):
    what = experiment([{"seed": 0}, {"seed": 1}])
    opened = session(what, tmp_path)
    plan = plan_memory(opened)
    states = trained(what, [0])
    rows, iterations = 200, 200 // opened.built.schedule.transitions
    observation, rest = 3 * 12, 3 * (1 + 4 + 1) + 1
    finals = math.ceil(opened.built.schedule.rollout_length / opened.built.env.spec.episode_limit)
    apart = iterations * finals * opened.experiment.training.num_envs * observation
    assert plan.replay * 2 == sum(leaf.nbytes for leaf in jax.tree.leaves(states.replay))
    assert plan.replay == rows * (observation + rest) + apart
    assert plan.total == 2 * (plan.replay + plan.learner + plan.environments + plan.rollout + plan.update)
    # What is seen before and after a step, action, reward, termination and truncation; its episode's statistics.
    row = 3 * (2 * 12 + 4 + 4 + 1) + 1 + (1 + 3 * 4 + 4 + 4 + 3)
    assert 1 <= plan.rollout / (opened.built.schedule.transitions * row) < 1.2
    assert runs_that_fit(plan, 200, plan.total * 2) == runs_that_fit(plan, 200, None) == 2
    assert runs_that_fit(plan, 200, plan.total) == 1
    with pytest.raises(ValueError, match=r"A run needs .* this machine has 20 KB: try buffer_size=\d+\.$"):
        runs_that_fit(plan, 200, 20_000)


def test_a_rollout_outside_jax_is_planned_twice_as_played_and_as_learnt_from(tmp_path: Path):
    pytest.importorskip("pettingzoo")
    what = Experiment("symbols_in_processes:make", "probe:make", {}, {}, ({"seed": 0}, {"seed": 1}), TINY)
    opened = session(what, tmp_path)
    spec, rows = opened.built.env.spec, opened.built.schedule.transitions
    seen = rows * spec.num_agents * spec.observation_size * 4
    assert 5 * seen < plan_memory(opened).rollout < 10 * seen  # before, after and at the end of a step; before and after it


def test_what_is_proposed_fits():
    plan = MemoryPlan(replay=904_000_000, learner=30_000_000, environments=0, rollout=0, update=20_000_000, num_runs=4)
    assert runs_that_fit(plan, 1_000_000, 2_000_000_000) == 1
    with pytest.raises(ValueError, match="try buffer_size=442000"):
        runs_that_fit(plan, 1_000_000, 500_000_000)
    with pytest.raises(ValueError, match="try a smaller network, fewer environments, a smaller update_interval or fewer"):
        runs_that_fit(plan, 0, 500_000_000)
    smaller = plan._replace(replay=904 * 442_000)
    assert runs_that_fit(smaller, 442_000, 500_000_000) == 1
    assert in_words(904_000_000) == "904 MB"


def test_what_an_update_takes_is_counted_where_most_lives():
    def program(x: jax.Array) -> jax.Array:
        wide = jnp.stack([x, x])  # 2 rows, and the rows that stack puts together live beside it
        total = wide.sum(0)
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.concatenate([y, y, y])[: len(y)], total)

    row = jnp.ones(1000).nbytes
    counted = temporary_bytes(jax.make_jaxpr(program)(jnp.ones(1000)).jaxpr)
    # In the loop: its input and result, and inside the threefold beside what is cut from it.
    assert 6 * row <= counted < 6 * row + 100


def test_devices_have_their_memory_together():
    def device(**stats: int) -> Any:
        return SimpleNamespace(platform="gpu", memory_stats=lambda: stats)

    assert available_bytes([device(bytes_limit=5), device(bytes_limit=5)]) == 10
    assert available_bytes([device(bytes_limit=9, bytes_in_use=4), device(bytes_limit=9, bytes_in_use=1)]) == 10, (
        "each takes as many runs, so that the fullest decides"
    )
    assert available_bytes([device(bytes_limit=5, bytes_in_use=6)]) == 0
    assert available_bytes([device(bytes_limit=5), device()]) is None
    assert available_bytes(jax.devices()) == pytest.approx(available_bytes(jax.devices()[:1]), rel=0.3), (
        "CPU devices share theirs"
    )


def test_a_container_has_what_its_processes_leave(tmp_path: Path):
    def write(**files: str) -> int | None:
        for name, text in files.items():
            (tmp_path / f"memory.{name}").write_text(text)
        return cgroup_available(tmp_path)

    assert write() is None
    assert write(max="100\n", current="70\n", stat="anon 50\ninactive_file 20\n") == 50
    assert write(max="max\n") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "algo"), [("probe:symbols", "probe:make"), ("matrix_game", "mappo")], ids=["replay", "rollout"]
)
def test_the_plan_is_of_the_size_that_xla_finds(tmp_path: Path, env: str, algo: str):
    training = dataclasses.replace(TINY, num_envs=100, episodes=1000, update_interval=2500, batch_size=2000, buffer_size=20_000)
    opened = session(Experiment(env, algo, {}, {}, ({"seed": 0},), training), tmp_path)
    states = jax.eval_shape(opened.runs.init, opened.configs, opened.keys)
    found = opened.runs.advance.lower(opened.configs, states, 0, 1).compile().memory_analysis()
    taken = found.argument_size_in_bytes + found.temp_size_in_bytes  # what comes out takes the place of what went in
    assert taken / 2 < plan_memory(opened).total < 3 * taken


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 5 bytes."),
            marks=pytest.mark.slow,
        ),
        MemoryError("Unable to allocate 9. GiB"),
    ],
)
def test_memory_that_runs_out_is_one_sentence_with_the_plan(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def exhausted(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(loop, "work", exhausted)
    folder = tmp_path / "out"
    assert run.main([*PROBE, *SMALL, "--out", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Memory has run out, although the plan was " in said
    assert all(
        part in said for part in ("replay ", "rollout ", "update ", "for each of 1 run: ", f"The checkpoints in {folder} are")
    )
    assert latest_checkpoint(folder / "checkpoints").exists()


def test_other_errors_stay_what_they_are(tmp_path: Path):
    with pytest.raises(RuntimeError, match="INTERNAL"), explaining_exhaustion(lambda: MemoryPlan(0, 0, 0, 0, 0, 1), tmp_path):
        raise RuntimeError("INTERNAL: something else")


def test_an_evaluation_before_any_further_episode_has_ended_takes_the_place_of_the_one_before():
    rows = [
        {"run": run, "env_steps": step, "episodes": episodes, "eval_return": value}
        for step, points in ((0, [(0, 1.0), (0, 1.0)]), (9, [(4, 2.0), (5, 2.0)]), (10, [(4, 9.0), (6, 5.0)]))
        for run, (episodes, value) in enumerate(points)
    ]
    first, second = (learning_curve.read_curve(rows, run) for run in range(2))
    np.testing.assert_array_equal(first.points, [[0, 4], [1, 9]])
    np.testing.assert_array_equal(second.points, [[0, 5, 6], [1, 2, 5]])
    np.testing.assert_array_equal(learning_curve.mean_curve([first, second]), [[0, 5], [1, 7]])


def test_an_experiment_survives_json():
    what = experiment([{"seed": 1, "temperature": 0.1}, {"seed": 2, "temperature": float("inf")}], size=2)
    assert experiment_from_json(json.loads(json.dumps(experiment_to_json(what)))) == what


def arrays(states: RunState) -> Any:
    """The states as numpy arrays."""
    return jax.tree.map(
        lambda leaf: np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf), states
    )


def test_compile_options_are_those_of_this_xla_and_others_are_left_out() -> None:
    lowered = jax.jit(lambda x: x + 1).lower(1.0)
    assert lowered.compile(compiler_options=dict(CPU_OPTIONS))(1.0) == 2.0  # would raise
    assert compile_with(lowered, {"xla_has_no_such_option": True})(1.0) == 2.0
