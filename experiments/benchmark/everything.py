"""Every benchmark, one after another, each into its own file of results. Run alone on the machine; it takes about an hour.

python experiments/benchmark/everything.py [JaxMARL's ippo_ff_mpe.py]
"""

import subprocess
import sys
from pathlib import Path

SCRIPTS = ("core", "profile_update", "environments", "processes")
WITH_JAXMARL = "ippo"


def main() -> int:
    """Runs all; returns how many failed."""
    commands = [[name] for name in SCRIPTS] + [[WITH_JAXMARL, path] for path in sys.argv[1:2]]
    failed = []
    for name, *arguments in commands:
        print(f"{name}: begins", flush=True)
        script = Path(__file__).with_name(f"{name}.py")
        if subprocess.run([sys.executable, str(script), *arguments], check=False).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed) or 'none'}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
