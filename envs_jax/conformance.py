"""Checks whether an environment keeps the contract of `envs_jax.environment`, and reports every fault as a sentence."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Box, Discrete, Environment, EnvSpec, TimeStep
from envs_jax.reference_policies import idle_action, sample_action

STEPS_AFTER_THE_END = 2
TOLERANCE = 1e-4

Step = Callable[[jax.Array, Any, jax.Array], tuple[Any, TimeStep]]


def check_environment(env: Environment, key: jax.Array | None = None, steps: int | None = None) -> list[str]:
    """Checks an environment against the contract with random actions; intended for the tests of an environment.

    The checks are the spec, then shapes and types, then rollouts under `jit`, with and without `vmap`. Each of the three stages
    runs only if the stage before finds no fault.

    Args:
        env: the environment, bare or wrapped.
        key: a typed key; None for `jax.random.key(0)`.
        steps: length of the rollout; None for the episode limit plus 2.

    Returns:
        One sentence per fault, an empty list for a valid environment: `assert not check_environment(env)`.
    """
    faults = _spec_faults(env)
    if faults:
        return faults
    steps = env.spec.episode_limit + STEPS_AFTER_THE_END if steps is None else steps
    keys = jax.random.split(jax.random.key(0) if key is None else key, 2)
    with jax.debug_key_reuse(False):  # the checks reuse keys on purpose
        return _type_faults(env, keys[0]) or _repeat_faults(env, keys, steps)


def _spec_faults(env: Environment) -> list[str]:
    if not isinstance(getattr(env, "spec", None), EnvSpec):
        return ["`spec` is not an EnvSpec."]
    spec = env.spec
    faults = []
    try:
        hash(spec)
    except TypeError:
        return ["`spec` is not hashable: its sequences must be tuples."]
    if not len(spec.agent_names) == len(spec.observation_sizes) == len(spec.action_spaces) > 0:
        faults.append(
            f"`spec` has {len(spec.agent_names)} agent_names, {len(spec.observation_sizes)} observation_sizes and "
            f"{len(spec.action_spaces)} action_spaces: there must be one of each for every agent."
        )
    if len(set(spec.agent_names)) < len(spec.agent_names):
        faults.append("`spec.agent_names` has the same name twice.")
    if len({type(space) for space in spec.action_spaces}) > 1:
        faults.append("`spec.action_spaces` mixes Discrete and Box: all must be of the same kind.")
    if any(size < 1 for size in spec.observation_sizes):
        faults.append("`spec.observation_sizes` has a size below 1.")
    for name, space in zip(spec.agent_names, spec.action_spaces, strict=False):
        if isinstance(space, Discrete) and space.num_actions < 1 or isinstance(space, Box) and space.size < 1:
            faults.append(f"{name} has an empty action space.")
        if isinstance(space, Box) and not (np.isfinite([space.low, space.high]).all() and space.low < space.high):
            faults.append(f"{name} has a Box from {space.low} to {space.high}: bounds must be finite and in order.")
    if spec.episode_limit < 1:
        faults.append(f"`spec.episode_limit` is {spec.episode_limit}: it must be at least 1.")
    return faults


def _type_faults(env: Environment, key: jax.Array) -> list[str]:
    """Checks the shapes and dtypes of reset, step, the scripted policy and the dependence between agents by tracing them."""
    any_key, action = jax.ShapeDtypeStruct((), key.dtype), _action_shape(env.spec)
    opened, faults = _traced("reset(key)", env.reset, any_key)
    faults = faults or _result_faults(env.spec, opened, "reset(key)")
    if faults:
        return faults
    unknown = [name for name in env.spec.last_metrics if name not in opened[1].metrics]
    if unknown:
        return [f"`spec.last_metrics` contains {unknown[0]!r}, but `reset(key)` returns no such metric."]
    stepped, faults = _traced("step(key, state, action)", env.step, any_key, opened[0], action)
    faults = faults or _result_faults(env.spec, stepped, "step(key, state, action)")
    if faults:
        return faults
    faults = _change_faults("state", opened[0], stepped[0]) + _change_faults("timestep", opened[1], stepped[1])
    if env.scripted is not None:
        scripted, failure = _traced("scripted(key, state)", env.scripted, any_key, opened[0])
        faults += failure or _mismatches({"The action from `scripted`": (scripted, action.shape, action.dtype)})
    if env.dependence is not None:
        depends, failure = _traced("dependence(state)", env.dependence, opened[0])
        faults += failure or _mismatches({"The result of `dependence`": (depends, (env.spec.num_agents,) * 2, jnp.bool_)})
    return faults


def _traced(name: str, function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[str]]:
    """Traces a function; returns (shapes of its result, []), or (None, [fault])."""
    try:
        with jax.debug_key_reuse(True):
            return jax.eval_shape(function, *arguments), []
    except jax.errors.KeyReuseError:
        return None, [f"`{name}` uses the same key twice: split it."]
    except Exception as error:
        return None, [_failure(f"`{name}` cannot be compiled", error)]


def _failure(what: str, error: Exception) -> str:
    return f"{what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _action_shape(spec: EnvSpec) -> jax.ShapeDtypeStruct:
    if spec.discrete:
        return jax.ShapeDtypeStruct((spec.num_agents,), jnp.int32)
    return jax.ShapeDtypeStruct((spec.num_agents, spec.action_size), jnp.float32)


def _result_faults(spec: EnvSpec, result: Any, source: str) -> list[str]:
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], TimeStep)):
        return [f"`{source}` does not return (state, TimeStep)."]
    timestep, real = result[1], jnp.zeros(()).dtype
    n, d = spec.num_agents, spec.observation_size
    expected = {
        "observation": ((n, d), real),
        "reward": ((n,), real),
        "terminated": ((n,), jnp.dtype(bool)),
        "truncated": ((), jnp.dtype(bool)),
        "action_mask": ((n, spec.action_size), jnp.dtype(bool)),
        "final_observation": ((n, d), real),
    }
    optional = {"final_action_mask": expected["action_mask"], "active": expected["terminated"]}
    expected |= {name: want for name, want in optional.items() if getattr(timestep, name) is not None}
    fields = {f"`{name}` from `{source}`": (getattr(timestep, name), *want) for name, want in expected.items()}
    metrics = {f"metric {name!r} from `{source}`": (value, (), real) for name, value in timestep.metrics.items()}
    return _mismatches(fields | metrics)


def _mismatches(leaves: dict[str, tuple[Any, tuple[int, ...], Any]]) -> list[str]:
    """Faults of leaves, which are given as name -> (leaf, expected shape, expected dtype)."""
    found = {name: (getattr(leaf, "shape", None), getattr(leaf, "dtype", None)) for name, (leaf, _, _) in leaves.items()}
    return [
        f"{name} is {found[name][1]} {found[name][0]}, but {dtype} {shape} is expected."
        for name, (_, shape, dtype) in leaves.items()
        if found[name] != (shape, dtype)
    ]


def _change_faults(what: str, before: Any, after: Any) -> list[str]:
    """Faults where a step changes the tree structure, a shape or a dtype, which `jax.lax.scan` does not allow."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        return [f"The tree structure of the {what} after a step differs from that after reset."]
    paths = jax.tree_util.tree_flatten_with_path(before)[0]
    return [
        f"`{what}{jax.tree_util.keystr(path)}` is {old.dtype} {old.shape} after reset and {new.dtype} {new.shape} after a step."
        for (path, old), new in zip(paths, jax.tree.leaves(after), strict=True)
        if (old.shape, old.dtype) != (new.shape, new.dtype)
    ]


def _rollout(env: Environment, step: Step, steps: int) -> Callable[[jax.Array], tuple[Any, Any, jax.Array]]:
    """Returns a function from a key to a random rollout.

    Its result is the (state, timestep) of reset, the (state, timestep) of all steps with a leading axis, and an action: the
    scripted one after reset, or the idle one if there is no scripted policy.
    """

    def advance(carry: tuple[Any, jax.Array, jax.Array], _: None) -> tuple[tuple[Any, jax.Array, jax.Array], Any]:
        state, action_mask, key = carry
        action_key, step_key, key = jax.random.split(key, 3)
        state, timestep = step(step_key, state, sample_action(env.spec, action_key, action_mask))
        return (state, timestep.action_mask, key), (state, timestep)

    def play(key: jax.Array) -> tuple[Any, Any, jax.Array]:
        reset_key, scripted_key, key = jax.random.split(key, 3)
        state, first = env.reset(reset_key)
        _, later = jax.lax.scan(advance, (state, first.action_mask, key), length=steps)
        if env.scripted is None:
            return (state, first), later, jnp.asarray(idle_action(env.spec))
        return (state, first), later, env.scripted(scripted_key, state)

    return play


def _run(function: Callable[[jax.Array], Any], argument: jax.Array) -> Any:
    """Traces and compiles a function anew, without optimization, and runs it; returns numpy arrays, with keys as integers."""

    def numbers(leaf: jax.Array) -> jax.Array:
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    compiled = jax.jit(lambda x: jax.tree.map(numbers, function(x)), compiler_options={"xla_backend_optimization_level": 0})
    return jax.device_get(compiled(argument))


def _same(a: Any, b: Any) -> bool:
    """Whether two trees are equal, within a tolerance for float32 rounding, which differs between compiled programs."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(np.float64(x), np.float64(y), TOLERANCE, TOLERANCE, equal_nan=True) for x, y in pairs)


def _repeat_faults(env: Environment, keys: jax.Array, steps: int) -> list[str]:
    """Compares `step` under `vmap` with `transition` and `sample_noise` without it, then checks the values of the rollout.

    Each program is traced separately. Random numbers from the host then differ between the programs, which reveals them.
    """

    def by_law(key: jax.Array, state: Any, action: jax.Array) -> Any:
        return env.transition(state, action, env.sample_noise(key, state))

    def opening(rollout: Any) -> Any:
        """Reset and the first step only, because rounding differences grow in later steps."""
        return rollout[0], jax.tree.map(lambda leaf: leaf[0], rollout[1])

    try:
        batched = _run(jax.vmap(_rollout(env, env.step, steps)), keys)
    except Exception as error:
        return [_failure("`vmap` over reset and step fails", error)]
    first_of_batch = jax.tree.map(lambda leaf: leaf[0], batched)
    law = _run(_rollout(env, by_law, 1), keys[0])
    if _same(opening(first_of_batch), opening(law)):
        return _rollout_faults(env.spec, first_of_batch[0][1], first_of_batch[1][1]) + _scripted_faults(env.spec, law[2])
    once, again = (opening(_run(_rollout(env, env.step, 1), keys[0])) for _ in range(2))
    for name, result, other in zip(("reset", "step"), once, again, strict=True):
        if not _same(result, other):
            return [f"`{name}` gives different results for the same arguments: it must draw all random numbers from its key."]
    if not _same(once, opening(law)):
        return ["`step(key, state, action)` differs from `transition(state, action, sample_noise(key, state))`."]
    return ["`reset` and `step` give different results under `vmap` than without it."]


def _when(bad: np.ndarray) -> str:
    step = int(np.argmax(bad.reshape(len(bad), -1).any(-1)))
    return "After reset" if step == 0 else f"After step {step}"


def _rollout_faults(spec: EnvSpec, first: TimeStep, later: TimeStep) -> list[str]:
    """Faults in the values of reset and of the steps after it, each with the step at which it first occurs."""
    timestep = jax.tree.map(lambda a, b: np.concatenate([a[None], b]), first, later)
    padding = ~spec.observation_mask
    done = timestep.truncated | timestep.terminated.all(-1)
    differs = (timestep.observation != timestep.final_observation).any((1, 2))
    ended_before = np.cumsum(done) - done > 0
    revived = np.diff(timestep.terminated, axis=0, prepend=False) & ~timestep.terminated
    index = np.arange(len(done))
    findings = {
        "`observation` is not finite": ~np.isfinite(timestep.observation),
        "`final_observation` is not finite": ~np.isfinite(timestep.final_observation),
        "`reward` is not finite": ~np.isfinite(timestep.reward),
        "`observation` is not zero beyond an agent's own width": (timestep.observation != 0) & padding,
        "`final_observation` is not zero beyond an agent's own width": (timestep.final_observation != 0) & padding,
        "`final_observation` differs from `observation` while the episode runs": differs & ~done,
        "`action_mask` allows an action that the agent does not have": timestep.action_mask & ~spec.action_mask,
        "`action_mask` leaves an agent without any action": ~timestep.action_mask.any(-1),
        "`reward` is not zero": (timestep.reward != 0) & (index == 0)[:, None],
        "the episode is over": done & (index == 0),
        "`terminated` becomes False again within an episode": revived & ~ended_before[:, None],
        "`truncated` is set before the episode limit": timestep.truncated & (index < spec.episode_limit),
        f"`truncated` is not set at the episode limit of {spec.episode_limit}": (
            ~done & ~ended_before & (index == spec.episode_limit)
        ),
    }
    findings |= {f"metric {name!r} is not finite": ~np.isfinite(value) for name, value in timestep.metrics.items()}
    return [f"{_when(bad)}, {sentence}." for sentence, bad in findings.items() if bad.any()]


def _scripted_faults(spec: EnvSpec, action: np.ndarray) -> list[str]:
    bounds = [(0, s.num_actions - 1) if isinstance(s, Discrete) else (s.low, s.high) for s in spec.action_spaces]
    low, high = np.array(bounds).T[..., None]
    values = np.asarray(action).reshape(spec.num_agents, -1)
    inside = (low <= values) & (values <= high) | (False if spec.discrete else ~spec.action_mask)
    return [] if inside.all() else ["`scripted` gives an action outside the agent's own action space."]
