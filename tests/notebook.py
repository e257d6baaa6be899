"""Run the code cells of a notebook in order in one process, as Jupyter does. Lines that begin with ``!`` are shell commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def cells(notebook: Path) -> list[str]:
    """Return the sources of the code cells."""
    content = json.loads(notebook.read_text())
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def shell(command: str, values: dict[str, object]) -> None:
    """Run a shell command, with ``{name}`` replaced by values of the notebook, and print what it prints."""
    done = subprocess.run(
        command.format(**values), shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(done.stdout, flush=True)
    if done.returncode:
        raise RuntimeError(f"{command}: exit status {done.returncode}")


def run(notebook: Path) -> None:
    """Run all code cells. The first error ends the run, as in Jupyter."""
    values: dict[str, object] = {"__name__": "__main__"}
    for number, source in enumerate(cells(notebook), 1):
        if source.startswith("!"):
            for line in source.splitlines():
                shell(line.removeprefix("!"), values)
        else:
            exec(compile(source, f"{notebook.name}, code cell {number}", "exec"), values)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
