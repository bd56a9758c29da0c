"""Settings by name. A preset gives options of `run.py`; what the command line says goes first."""

from typing import Any

QUICK_EPISODES = 3_000
"""MAMT on Rover-Tower, one seed: within about 12 minutes on 2 CPU cores, half of that on faster ones."""

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"episodes": QUICK_EPISODES, "evaluation_interval": 100},
    "paper": {"episodes": 50_000, "evaluation_interval": 500},
}
