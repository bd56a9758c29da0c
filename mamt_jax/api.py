"""Python API: the functions of the command line, and training as a pure function."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from envs_jax.environment import Environment, HostEnvironment
from envs_jax.rollout import evaluate_policy
from mamt_jax.options import Option, OptionError, read_value
from mamt_jax.renamed import rename_warnings, with_new_names
from mamt_jax.training import launch
from mamt_jax.training.console import plain_console
from mamt_jax.training.experiment import Algo, Env, Experiment, build
from mamt_jax.training.initial import Source
from mamt_jax.training.learning_curve import plot_learning_curve
from mamt_jax.training.loggers import check_logger
from mamt_jax.training.loop import ENDED
from mamt_jax.training.merge import read_experiment
from mamt_jax.training.policies import Policy, Which, acting, load_policy, make_policy, pretrained_folder
from mamt_jax.training.run_folder import METRICS, folder_name, read_config, read_rows
from mamt_jax.training.session import Callback
from mamt_jax.training.settings import find_settings, find_source, make_experiment
from mamt_jax.training.trainer import make_run, make_train
from mamt_jax.types import Config, LearnerState

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Run:
    """Runs of training in a folder, one for each seed and hyperparameter value.

    Attributes:
        folder: folder that holds the results.
    """

    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json, which defines the runs completely."""
        return read_config(self.folder)

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the rows of metrics.jsonl, one dict for each evaluation and run, oldest first."""
        return read_rows(self.folder / METRICS)

    def policy(self, which: Which = "best", run: int = 0) -> Policy:
        """Returns the policies of all agents; see `load_policy`."""
        return load_policy(self.folder, run, which)

    def plot(self, path: str | Path | None = None) -> "Figure":
        """Plots the learning curve, and writes it to `path` if given. The suffix of `path` selects the file format."""
        return plot_learning_curve(self.folder, None if path is None else Path(path))

    def __repr__(self) -> str:
        """Describes the runs in one line: algorithm, environment, number of episodes and latest return."""
        experiment, rows = read_experiment(self.folder), self.metrics()
        runs = len(experiment.runs)
        latest = [row["eval_return"] for row in rows[-runs:] if row.get("eval_return") is not None]
        done = f"{rows[-1]['episodes']:,} of " if rows else ""
        earned = f", eval_return {np.mean(latest):.4g}" if latest else ""
        return (
            f'Run("{self.folder}": {experiment.algo_name} on {experiment.env_name}, {runs} run{"s" * (runs > 1)}, '
            f"{done}{experiment.training.episodes:,} episodes{earned})"
        )


class Trainer(NamedTuple):
    """Training as pure functions.

    Attributes:
        config: hyperparameters of the algorithm; `config.replace(epsilon=...)` changes one, also to a traced value.
        train: (key, config) -> (learner state, metrics). It may be jitted, and vmapped over both arguments. Metrics are a dict
            of arrays with a leading axis of evaluations.
        policy: learner state -> the policies of all agents, as `load_policy` returns them.
    """

    config: Config
    train: Callable[[jax.Array, Config], tuple[LearnerState, dict[str, jax.Array]]]
    policy: Callable[[LearnerState], Policy]


def train(
    env: Env,
    algo: Algo = "mamt",
    *,
    out: str | Path | None = None,
    seeds: int = 1,
    preset: str = "tuned",
    init_from: str | Path | None = None,
    log: Sequence[str] = (),
    callback: Callback | None = None,
    **options: Any,
) -> Run:
    """Trains agents and keeps the results in a folder, as `mamt train` does.

    Args:
        env: the environment: its name, "package.module:Factory", a factory, or an environment object.
        algo: the algorithm: its name, "package.module:make", a function spec -> Algorithm, or an `Algorithm`.
        out: folder of the results, which must be absent or empty. The default is runs/ENV-ALGO-TIME.
        seeds: number of runs. Each run has its own seed.
        preset: "tuned" for the settings that measured best, or "paper" for Table 1 and 50,000 episodes. `options` override it.
        init_from: folder of runs, or "pretrained/ENV/ALGO". The new runs start from its parameters.
        log: additional loggers, "tensorboard" or "wandb". They receive the metrics, the learning curve and films of the best
            policies.
        callback: called after every evaluation as `callback(rows, policy)`. `rows` are the new rows of metrics.jsonl, one for
            each run. `policy(run)` gives the run's policies, as `load_policy` returns them. If it returns False, training ends
            with a checkpoint.
        **options: options of training, of the environment and of the algorithm. `mamt train --env ENV --algo ALGO --help`
            lists them. A list of values for a float option of the algorithm trains one run per value.

    Returns:
        The runs in the folder.

    Raises:
        ValueError: if an option is not valid. The message names the option, its value and the valid values.
        FolderError: if the folder is in use or cannot be written.
        KeyboardInterrupt: if Ctrl-C stopped training. A checkpoint has been written.
    """
    for name in log:
        check_logger(name)
    source = None if init_from is None else find_source(str(init_from))
    experiment = _experiment(env, algo, options, preset, seeds, source)
    folder = folder_name(str(out)) if out is not None else launch.default_folder(experiment)
    _stop(launch.start(experiment, folder, plain_console(), log=log, initial=source, callback=callback), folder)
    return Run(folder)


def resume(
    folder: str | Path,
    *,
    episodes: int | None = None,
    env: Env | None = None,
    algo: Algo | None = None,
    callback: Callback | None = None,
) -> Run:
    """Resumes the runs of a folder, as `mamt train --resume` does.

    Args:
        folder: folder that `train` wrote.
        episodes: new total number of episodes. The default keeps the length of the runs.
        env: the environment, required if `train` received an object instead of a name.
        algo: the algorithm, required if `train` received an object instead of a name.
        callback: function that is called after every evaluation, see `train`.

    Returns:
        The runs in the folder.

    Raises:
        FolderError: if the folder holds no runs or is in use.
        CheckpointError: if no checkpoint can be used.
        ValueError: if the runs have already trained for more than `episodes`.
        KeyboardInterrupt: if Ctrl-C stopped training. A checkpoint has been written.
    """
    given = {name: value for name, value in (("env", env), ("algo", algo)) if value is not None}
    folder = Path(folder)
    _stop(launch.resume(folder, plain_console(), episodes=episodes, given=given, callback=callback), folder)
    return Run(folder)


def open_run(folder: str | Path) -> Run:
    """Opens the runs in a folder.

    Raises:
        FolderError: if the folder holds no runs.
    """
    read_experiment(Path(folder))
    return Run(Path(folder))


def make_trainer(env: Env, algo: Algo = "mamt", *, evaluations: int = 10, preset: str = "tuned", **options: Any) -> Trainer:
    """Creates training as a pure function of a key and hyperparameters. It neither writes files nor prints.

    `jax.random.key(k)` gives the same training as seed k in `train`, up to rounding.

    Args:
        env: the environment, see `train`. It must run in JAX.
        algo: the algorithm, see `train`.
        evaluations: number of evaluations. They are evenly spaced, and the last one is at the end of training.
        preset: the preset, see `train`.
        **options: options, see `train`, with one value each.

    Raises:
        ValueError: if an option is not valid, or the environment runs outside JAX.
    """
    experiment = _experiment(env, algo, options, preset)
    if len(experiment.runs) > 1:
        raise OptionError("make_trainer takes one value for each option. For several values, vmap `train` over configs.")
    with launch.refusing(experiment):
        built = build(experiment)
    if not isinstance(built.env, Environment):
        raise OptionError(f"env {experiment.env_name!r} is not valid: it runs outside JAX. Train in it with mamt_jax.train.")
    total = built.schedule.total_iterations
    if not 1 <= evaluations <= total:
        raise OptionError(f"evaluations={evaluations} is not valid: give a number from 1 to {total}, the number of iterations.")
    run = make_run(built.env, built.algorithm, experiment.training, built.schedule)
    config, spec = built.configs[0], built.env.spec
    return Trainer(
        config=config,
        train=make_train(run, built.schedule, evaluations),
        policy=lambda learner_state: make_policy(built.algorithm, config, learner_state, spec),
    )


def evaluate(
    policy: Policy, env: Environment | HostEnvironment, key: jax.Array, episodes: int = 100, *, sample: bool = False
) -> dict[str, float]:
    """Evaluates a policy in an environment.

    Args:
        policy: policy from `load_policy`, `load_pretrained`, `Run.policy` or `Trainer.policy`.
        env: the environment.
        key: random key of initial states, noise and sampled actions.
        episodes: number of episodes.
        sample: whether to sample actions. By default, actions are the modes of the policies.

    Returns:
        A dict with `return`, the episode return averaged over agents and episodes; `return_se`, its standard error over
        episodes; and `task/NAME`, the mean of each task metric over episodes.
    """
    found = evaluate_policy(env, acting(policy, sample), key, episodes)
    metrics = {f"task/{name}": value for name, value in found["metrics"].items()}
    return {"return": found["return"], "return_se": found["return_std_error"], **metrics}


def load_pretrained(name: str) -> Policy:
    """Loads a trained policy that is included in the package, such as "rover_tower/mappo". `mamt list` shows all.

    Raises:
        ValueError: if no policy has this name.
    """
    return load_policy(pretrained_folder(name, "policy "), which="best")


def _experiment(
    env: Env, algo: Algo, options: Mapping[str, Any], preset: str, seeds: int = 1, source: Source | None = None
) -> Experiment:
    """Creates the experiment that keyword arguments describe."""
    for sentence in rename_warnings(options):
        warnings.warn(sentence, DeprecationWarning, stacklevel=3)
    options = with_new_names(options)

    def read(known: Mapping[str, Option]) -> dict[str, Any]:
        return {name: read_value(name, option, options[name]) for name, option in known.items() if name in options}

    settings = find_settings(env, algo, preset, read, source)
    every = {name: option for name, (_, option) in settings.places.items()}
    unknown = {name: value for name, value in options.items() if name not in every}
    return make_experiment(settings, {**read(every), **unknown}, seeds)


def _stop(number: int | None, folder: Path) -> None:
    """Raises KeyboardInterrupt if the signal `number` stopped training."""
    if number is not None and number != ENDED:
        raise KeyboardInterrupt(f"Stopped by signal {number}. Continue with: mamt_jax.resume({str(folder)!r})")
