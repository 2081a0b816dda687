"""Question 6: starting, in seconds from the shell to the exit, the median of runs in turn with ``python -c "import typer"``.

Subjects: ``help`` (``ecomflow --help``); ``dry-run`` (``ecomflow publish --dry-run --n 1``, which makes the shop's vocabulary).
``ratio`` is the subject's median over that of the import, ``rate`` how often a second it starts, ``beam`` whether it has
imported Beam. Bytecode is kept in a folder of its own, and made before anything is measured: what a second start takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from benchmarks.throwaway import environment, temporary_folder

RUNS = 15

_TYPER = ["-c", "import typer"]
SUBJECTS = {"help": ["-m", "ecomflow", "--help"], "dry-run": ["-m", "ecomflow", "publish", "--dry-run", "--n", "1"]}
_IMPORTS_BEAM = (
    "import atexit, sys; sys.argv[0] = 'ecomflow'\n"
    "atexit.register(lambda: print('apache_beam' in sys.modules))\n"
    "from ecomflow.cli import main; main()"
)


def measure(arguments: list[str], runs: int) -> dict[str, float | bool]:
    with temporary_folder() as folder:
        environ = {**environment(), "PYTHONPYCACHEPREFIX": str(folder)}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        commands = (arguments, _TYPER)
        for command in commands:
            _seconds(command, environ)
        ours, typer = zip(*[[_seconds(command, environ) for command in commands] for _ in range(runs)], strict=True)
        beam = _output(["-c", _IMPORTS_BEAM, *arguments[2:]], environ).splitlines()[-1] == "True"
    seconds, base = statistics.median(ours), statistics.median(typer)
    return {"rate": 1 / seconds, "seconds": seconds, "typer_seconds": base, "ratio": seconds / base, "beam": beam}


def _seconds(arguments: list[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    _output(arguments, environ)
    return time.perf_counter() - began


def _output(arguments: list[str], environ: dict[str, str]) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, env=environ).stdout


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", choices=SUBJECTS, required=True)
    print(json.dumps(measure(SUBJECTS[parser.parse_args().subject], RUNS)))


if __name__ == "__main__":
    main()
