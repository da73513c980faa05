"""What a benchmark runs on and in: this machine and its versions, processes of their own, and their peak memory.

Of the standard library alone: peers run in environments without raremap.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any


def machine(*packages: str) -> dict[str, Any]:
    """What figures depend on besides the code: versions of `packages`, cores, processor, and the load now."""
    return {
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}},
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "load": round(os.getloadavg()[0], 2),
    }


def fresh(
    script: str,
    *words: object,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    limit_s: float | None = None,
) -> Any:
    """What `script` with `words` prints as its last line, JSON, in a process of its own; ends this one where that fails.

    None where it has not ended after `limit_s` seconds; it is killed then.
    """
    command = [python, script, *map(str, words)]
    env = None if environment is None else {**os.environ, **environment}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_mb() -> float:
    """Highest resident memory of this process so far."""
    return _status("VmHWM")


def resident_mb() -> float:
    """Resident memory of this process now."""
    return _status("VmRSS")


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {key} in /proc/self/status")
