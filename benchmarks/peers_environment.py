"""The environment that the peers run in: rust_circuit needs numpy 1, so not the one that
pytest-scrub is tested in.

pytest-scrub itself runs there too, so that both are timed in one process.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.peers_timing import THREADS

ROOT = Path(__file__).parent.parent
VENV = ROOT / ".venv-peers"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed"
# pyarrow 24 is the only one that both datasets 5 and numpy 1 accept.
REQUIREMENTS = [
    "numpy<2", "torch==2.13.0", "transformer-lens==4.3.0", "transformers==5.23.0",
    "datasets==5.2.0", "pyarrow==24.*",
    "pyvene==0.1.8", "attrs", "cattrs", "blake3", "msgpack", "websockets",
]  # fmt: skip
# its wheels are for CPython 3.11 on Linux, and its declared requirements are too old
RUST_CIRCUIT = "rust_circuit==0.4.5"
SHOWN = ("torch", "numpy", "transformer-lens", "rust_circuit", "pyvene")


def inside() -> bool:
    return Path(sys.prefix).resolve() == VENV.resolve()


def install() -> None:
    """Make the environment, once. Without rust_circuit where there is no wheel of it."""
    if STAMP.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pip = [PYTHON, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--editable", ROOT, *REQUIREMENTS], check=True)
    if subprocess.run([*pip, "--no-deps", RUST_CIRCUIT], check=False).returncode:
        print(f"{RUST_CIRCUIT} has no wheel for this Python, so it is left out", file=sys.stderr)
    STAMP.touch()


def machine() -> str:
    """The processor, and how many of its cores may be used."""
    said = [
        line.split(":", 1)[1].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    return f"{said[0] if said else platform.processor()} ({platform.machine()}), {THREADS} cores"


def versions() -> str:
    """What was compared, and the instructions that torch found."""
    found = []
    for name in SHOWN:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return (
        f"Python {platform.python_version()}, {', '.join(found)}; "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
