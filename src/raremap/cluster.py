"""Parts of a job on the workers of a Ray cluster, or of Ray on this machine; what a lost worker was at is done again.

A `Team` is called with a part and gives its result, from any thread: what runs a job in threads here runs it there.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from raremap import errors, grpc
from raremap.errors import ClusterError, MissingExtra, RaremapError, reason
from raremap.jobs import cores

if TYPE_CHECKING:
    from collections.abc import Hashable

P = TypeVar("P")
R = TypeVar("R")

log = logging.getLogger("raremap")

_SECONDS = 5  # until an address that does not answer is given up
# Methods that a cluster has and nothing else: what drivers ask first, and what clients can.
_DRIVER, _CLIENT = "/ray.rpc.NodeInfoGcsService/GetClusterId", "/ray.rpc.RayletDriver/ClusterInfo"
_TRIES = 3  # workers that a part may cost

Setup = Callable[[], Callable[[P], R]]
"""Called once in a worker: gives the function that does a part there."""


def connect(address: str, cpus: int | None = None, extra: str = "ray") -> bool:
    """Join the Ray cluster at an address, or start Ray here for "local"; False where this process has joined before.

    Raises `ClusterError` within seconds where none answers there, `MissingExtra` without Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", extra) from None
    if ray.is_initialized():
        return False
    own: dict[str, Any] = {}
    if address == "local":
        own = {"num_cpus": cpus or cores(), "include_dashboard": False}
    elif address != "auto":
        _answers(address)
    try:
        with _paths_passed_on():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray raises that very class where its parts do not start in time
        raise _unreachable(address, reason(error, 120)) from None
    return True


@contextmanager
def _paths_passed_on() -> Iterator[None]:
    """What is started here finds what this process finds, however it was started.

    Ray's own `runtime_env` would do, but starts every worker twice.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _answers(address: str) -> None:
    """Raise `ClusterError` where no Ray answers: Ray itself would wait for minutes, and print what its parts say."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        raise _unreachable(address, "expected HOST:PORT, ray://HOST:PORT, auto or local")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS) as link:
            method = _CLIENT if address.startswith("ray://") else _DRIVER
            plain = os.environ.get("RAY_USE_TLS") in (None, "0")
            if plain and not grpc.knows(link, method, _SECONDS):
                raise OSError("what listens there is no Ray")
    except (OSError, OverflowError) as error:
        raise _unreachable(address, getattr(error, "strerror", None) or reason(error)) from None


def _unreachable(address: str, why: str) -> ClusterError:
    return ClusterError(f"no Ray cluster answers at '{address}' ({why}); start one, or give --ray local")


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process has joined. `workers` bounds a team (None: one for each processor or GPU)."""

    address: str
    workers: int | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether any of its machines has a GPU."""
        return self._total("GPU") >= 1

    def size(self, on_gpu: bool = False) -> int:
        """Workers of a team."""
        return self.workers or max(1, self._total("GPU" if on_gpu else "CPU"))

    def _total(self, what: str) -> int:
        import ray

        return int(ray.cluster_resources().get(what, 0))

    @contextmanager
    def team(
        self, setup: Setup[P, R], told: Callable[[P], str] = str, on_gpu: bool = False
    ) -> Iterator[Team[P, R]]:
        """Workers that have each called `setup` once; they end with the block. `told` names a part in the log."""
        with ray_on_stderr():
            team = Team(setup, told, self.size(on_gpu), on_gpu, self.address)
            try:
                yield team
            finally:
                team.close()


@contextmanager
def joined(address: str, workers: int | None = None) -> Iterator[Cluster]:
    """A cluster until the block ends: "local" for Ray on this machine, else what `ray.init` takes as an address.

    Raises `ClusterError` where none answers or `workers` makes no sense, `MissingExtra` without Ray.
    """
    if workers is not None and workers < 1:
        raise ClusterError(f"{workers} workers can do nothing; give 1 or more")
    ours = connect(address, workers)
    try:
        yield Cluster(address, workers)
    finally:
        if ours:
            import ray

            with ray_on_stderr():
                ray.shutdown()


@contextmanager
def ray_on_stderr() -> Iterator[None]:
    """Ray prints what its raylets say of lost workers, whatever `log_to_driver` is; results alone are for standard output."""
    with redirect_stdout(sys.stderr):
        yield


def maybe_joined(address: str | None, workers: int | None) -> AbstractContextManager[Cluster | None]:
    """The cluster of `--ray`, or None where that was not given; raises what `joined` does."""
    if address is not None:
        return joined(address, workers)
    if workers is not None:
        raise ClusterError(f"{workers} workers of what cluster? give --ray ADDRESS, or --ray local")
    return nullcontext()


class _Worker:
    """What lives in a worker: the function that `setup` gave, made when it is first needed."""

    def __init__(self, setup: Setup[Any, Any], folder: str) -> None:
        self._setup, self._work = setup, None
        if os.path.isdir(folder):  # so that relative paths mean here what they mean to the driver
            os.chdir(folder)

    def here(self) -> str:
        """The machine and process."""
        return f"{socket.gethostname()}:{os.getpid()}"

    def do(self, part: Any) -> tuple[str | None, Any]:
        """A part's result; or which of our errors was raised, and its text."""
        try:
            if self._work is None:
                self._work = self._setup()
            return None, self._work(part)
        except RaremapError as error:
            return type(error).__name__, str(error)


class Team(Generic[P, R]):
    """Workers of a cluster as one function: called with a part, from any thread, it gives the part's result.

    `size` threads keep all of them at work. What a part raises is raised here. A worker that is lost, with its
    machine or for want of memory, costs the part it was at: another is started in its place and the part is
    done again, and the log says so; a part that costs three workers raises `ClusterError`.
    """

    def __init__(
        self, setup: Setup[P, R], told: Callable[[P], str], size: int, on_gpu: bool, address: str
    ) -> None:
        import ray

        self.size, self._ray, self._told, self._address = size, ray, told, address
        self._kind: Any = ray.remote(num_cpus=1, num_gpus=1 if on_gpu else 0)(_Worker)
        self._setup = ray.put(setup)
        self._idle: queue.SimpleQueue[tuple[Any, str] | BaseException] = queue.SimpleQueue()
        self._all: set[Any] = set()
        self._lost: Counter[Hashable] = Counter()
        self._failed = 0
        self._lock, self._closed = threading.Lock(), False
        for _ in range(size):
            self._start()

    def _start(self) -> None:
        """Ask for a worker; it takes its place among the idle ones when it is up."""
        with self._lock:
            if self._closed:
                return
            worker = self._kind.remote(self._setup, os.getcwd())
            self._all.add(worker)

        def up(future: Any) -> None:
            error = future.exception()
            self._idle.put(error if error is not None else (worker, future.result()))

        worker.here.remote().future().add_done_callback(up)

    def _next(self) -> tuple[Any, str]:
        """A worker that is idle; raises `ClusterError` where they cannot even begin."""
        while isinstance(found := self._idle.get(), BaseException):
            with self._lock:
                self._failed += 1
                hopeless = self._failed > _TRIES or self._closed
            if hopeless:
                self._idle.put(found)  # for whoever else waits
                raise ClusterError(
                    f"the workers of '{self._address}' cannot begin ({_cause(found)}); "
                    "each machine needs the same Python, Ray and raremap as this one"
                )
            self._start()
        return found

    def __call__(self, part: P) -> R:
        """The part's result."""
        import ray.exceptions as faults

        for attempt in range(1, _TRIES + 1):
            worker, place = self._next()
            try:
                fault, result = self._ray.get(worker.do.remote(part))
            except faults.RayTaskError as error:  # a failure of ours, in the worker
                self._idle.put((worker, place))
                raise error.as_instanceof_cause() from None
            except faults.RayError as error:
                self._forget(worker)
                if self._closed:
                    raise ClusterError("the workers were ended") from None
                log.warning(
                    "worker %s was lost (%s); %s is done again, attempt %d",
                    place, _cause(error), self._told(part), attempt + 1,
                )  # fmt: skip
                self._start()
                continue
            self._idle.put((worker, place))
            if fault is not None:
                raise self._raised(fault, result, place)
            return result
        raise ClusterError(
            f"{self._told(part)} has cost {_TRIES} workers of '{self._address}'; they may want memory: "
            "give a smaller --window, or fewer --workers on each machine"
        )

    def _raised(self, kind: str, text: str, place: str) -> RaremapError:
        """The error that a worker has met, which says where if that is not here."""
        where = "" if place.partition(":")[0] == socket.gethostname() else f" (on {place.partition(':')[0]})"
        found = getattr(errors, kind, RaremapError)
        error = found.__new__(found)  # one of them takes other arguments than its text
        error.args = (text + where,)
        return error

    def _forget(self, worker: Any) -> None:
        with self._lock:
            self._all.discard(worker)
        self._ray.kill(worker)  # it may be there still, and only what it gave be lost

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            self._closed = True
            workers, self._all = self._all, set()
        self._idle.put(ClusterError("the workers were ended"))  # for threads that wait for one
        for worker in workers:
            self._ray.kill(worker)


def _cause(error: BaseException) -> str:
    """Why a worker was lost, in a few words of Ray's many."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line.split(":")[0]]
    return ((told or lines or [type(error).__name__])[-1])[:160]
