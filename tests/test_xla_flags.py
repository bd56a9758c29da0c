"""Ten runs side by side on a CPU come to an end: they once stood still for good, see mamt_jax/xla_flags.py."""

from pathlib import Path

import pytest
from conftest import RunPython

from mamt_jax.xla_flags import set_cpu_scheduler

FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"
ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_ten_seeds_come_to_an_end(run_python: RunPython, tmp_path: Path):
    arguments = "--env spread --algo maac --seeds 10 --episodes 48 --batch-size 300 --hidden-size 32 --evaluation-episodes 4"
    script = ROOT / "experiments" / "run.py"
    run_python(script, *arguments.split(), "--out", tmp_path / "out", timeout=300, XLA_FLAGS="")
    assert (tmp_path / "out" / "metrics.jsonl").read_text().count("\n") >= 20


def test_the_flag_is_added_once_and_the_users_choice_kept():
    for before, after in {
        "": f"{FLAG}=false",
        "--xla_dump_to=x": f"--xla_dump_to=x {FLAG}=false",
        f"{FLAG}=true": f"{FLAG}=true",
    }.items():
        environ = {"XLA_FLAGS": before}
        set_cpu_scheduler(environ)
        set_cpu_scheduler(environ)
        assert environ["XLA_FLAGS"] == after
    environ = {}
    set_cpu_scheduler(environ)
    assert environ == {"XLA_FLAGS": f"{FLAG}=false"}
