"""What version 0.1 wrote can still be read, and its option names are still accepted."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import envs_jax
import mamt_jax
from mamt_jax.cli.parser import dashed
from mamt_jax.training.checkpoint import latest_checkpoint, read_record
from mamt_jax.training.launch import prepare
from mamt_jax.training.merge import is_finished, read_experiment

OLD = Path(__file__).parent / "data" / "old_run"


def test_an_old_run_is_read_as_it_was():
    run, expected = mamt_jax.open_run(OLD), json.loads((OLD / "expected.json").read_text())
    experiment = read_experiment(OLD)
    assert experiment.algo_options["max_policy_grad_norm"] == 0.4
    assert experiment.algo_options["attention_logit_coef"] == pytest.approx(2e-3)
    config = prepare(experiment, OLD, {}).built.configs[0]
    assert config.attention_logit_coef == pytest.approx(2e-3) and config.coordination.__name__ != "exact"
    assert is_finished(OLD) and run.metrics()
    record = read_record(latest_checkpoint(OLD / "checkpoints"))
    assert record["iterations"] == 12 and record["halts"] == [None]
    observation = jax.random.normal(jax.random.key(0), (8, 2, 12))
    for which in ("latest", "best"):
        policy = run.policy(which)
        np.testing.assert_array_equal(policy(observation), expected["greedy_action"][which])
        found = mamt_jax.evaluate(policy, envs_jax.make("spread"), jax.random.key(0), episodes=20)["return"]
        assert found == pytest.approx(expected["eval_return"][which], rel=1e-5)


@pytest.mark.slow
def test_an_old_run_is_extended(tmp_path: Path):
    folder = shutil.copytree(OLD, tmp_path / "old")
    run = mamt_jax.resume(folder, episodes=60)
    assert run.metrics()[-1]["env_steps"] == 1500
    assert list((folder / "checkpoints").glob("iteration_*.npz"))


def test_old_option_names_are_accepted_with_a_warning(capsys: pytest.CaptureFixture[str]):
    typed = dashed(["--policy_clip", "0.4", "--critic-regularisation=2", "--gamma", "0.9"])
    assert typed == ["--max-policy-grad-norm", "0.4", "--attention-logit-coef", "0.002", "--gamma", "0.9"]
    assert "--policy-clip will be removed in the next release: give --max-policy-grad-norm 0.4" in capsys.readouterr().err
    with pytest.warns(DeprecationWarning, match="policy_clip=0.4 is now max_policy_grad_norm=0.4"):
        trainer = mamt_jax.make_trainer("spread", "maac", episodes=500, evaluations=1, policy_clip=0.4)
    assert trainer.config.max_policy_grad_norm == 0.4
