"""One of the processes that train together: `python -m raremap.learn.worker RANK SIZE DEVICE FOLDER`, see `several`."""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raremap.errors import RaremapError
from raremap.learn.several import leave
from raremap.learn.team import Team


def main() -> None:
    """Train with the others; a fault is left in the folder for the process that waits."""
    rank, size, device, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    given = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    level = logging.WARNING if rank == 0 else logging.ERROR
    logging.basicConfig(level=level, format="raremap: warning: %(message)s")
    os.environ["LOCAL_RANK"] = str(rank)  # Lightning starts no processes of its own then
    try:
        _train(given, Team(rank, size), device, folder)
    except RaremapError as error:
        leave(folder, rank, error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException:
        (folder / f"failed-{rank}").write_text(traceback.format_exc())
        sys.exit(1)


def _train(given: dict[str, Any], team: Team, device: str, folder: Path) -> None:
    from raremap.learn.fit import fit

    if sys.platform == "linux":
        # All are on this machine: gloo need not find out what it is called in its network.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if device == "cuda":
        torch.cuda.set_device(team.rank)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=team.rank,
        world_size=team.size,
    )
    try:
        fit(**given, team=team)
    finally:
        dist.destroy_process_group()


def _end_with_parent() -> None:
    """End where nobody waits any more: the other end of the standard input has closed."""
    while os.read(0, 1):  # not of sys.stdin, whose lock it would hold when Python ends
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
