"""A trained policy as one file of StableHLO that plain JAX can call, with neither mamt_jax nor its environment."""

from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp

from mamt_jax.training.policies import Which, load_policy, load_spec

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_policy(folder: str | Path, run: int = 0, which: Which = "latest", sample: bool = False) -> bytes:
    """A policy of a run's folder with its weights, serialised by `jax.export`.

    `jax.export.deserialize(content).call` takes a float32 observation (B, n, d) of any batch size B, zero-padded to the widest
    agent, and gives actions (B, n) int32 or (B, n, k) float32. Where the environment masks actions, a mask (B, n, A) bool
    follows the observation. It runs on CPUs, GPUs and TPUs.

    Args:
        folder: the folder of a run of experiments/run.py.
        run: which of its runs, as metrics.jsonl numbers them.
        which: the latest policy or the best one, as `load_policy` has it.
        sample: whether actions are drawn instead of being each policy's mode: `call` then takes a seed last, a uint32 scalar.

    Raises:
        FolderError: if it is no such folder, or has no such run or no such policy.
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    policy, spec = load_policy(folder, run, which), load_spec(folder)
    (batch,) = jax.export.symbolic_shape("batch")
    shown = [jax.ShapeDtypeStruct((batch, spec.num_agents, spec.observation_size), jnp.float32)]
    if spec.has_action_masks:
        shown.append(jax.ShapeDtypeStruct((batch, spec.num_agents, spec.action_size), bool))
    seed = [jax.ShapeDtypeStruct((), jnp.uint32)] if sample else []

    def choose(observation: jax.Array, *rest: jax.Array) -> jax.Array:
        masks, seeds = rest[: len(shown) - 1], rest[len(shown) - 1 :]
        return policy(observation, jax.random.key(seeds[0]) if seeds else None, *masks)

    return bytes(jax.export.export(jax.jit(choose), platforms=PLATFORMS)(*shown, *seed).serialize())
