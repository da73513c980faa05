"""Trials of a tuning side by side on Ray Tune, here or on a cluster that sees the same files."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raremap.cluster import connect, ray_on_stderr
from raremap.errors import ConfigError, MissingExtra
from raremap.jobs import Progress
from raremap.workflows.trials import Trial, curve_in, run_trial

if TYPE_CHECKING:
    from raremap.workflows.tune import Job

# Ray writes no logs of its own beside our run folders, tells nobody that it is used, and leaves Ctrl-C to us.
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@ray_on_stderr()
def on_ray(job: Job, address: str, quiet: bool) -> None:
    """Make the trials that are left on Ray: "local" starts it on this machine, else the address of a cluster.

    Which values are proposed and which trials go on is decided here, by the same rules as without Ray, and this
    process alone writes the table. Raises `ClusterError` where none answers.
    """
    if find_spec("ray") is None:
        raise MissingExtra("ray", "tune")
    if not job.left:
        return
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import tune

    ours = connect(address, extra="tune")
    try:
        resources: dict[str, float] = {"cpu": job.experiment.train.threads or 1}
        if job.experiment.train.device in ("auto", "cuda") and ray.cluster_resources().get("GPU"):
            resources["gpu"] = 1
        with job.reported(quiet) as bar:
            search, scheduler = _rules(job, bar)
            tune.Tuner(
                tune.with_resources(tune.with_parameters(_train, **_parcel(job)), resources),
                tune_config=tune.TuneConfig(
                    search_alg=search,
                    scheduler=scheduler,
                    num_samples=len(job.left),
                    metric="score",
                    mode="max",
                ),
                run_config=tune.RunConfig(
                    name="ray",
                    storage_path=str(job.folder.resolve()),
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=2),
                ),
            ).fit()
    finally:
        if ours:
            ray.shutdown()
        shutil.rmtree(job.folder / "ray", ignore_errors=True)


def _parcel(job: Job) -> dict[str, Any]:
    """What a worker needs, wherever it is; paths are seen from the folder in which we were started."""
    job.catalog.save(job.folder / "catalog.parquet")
    return {
        "catalog": str(job.folder / "catalog.parquet"),
        "metric": job.options.metric,
        "here": os.getcwd(),
    }


def _train(config: dict[str, Any], catalog: str, metric: str, here: str) -> None:
    """One trial, in a worker; each score is reported, and Ray ends the worker where the trial is to stop."""
    from ray import tune

    from raremap.config import Experiment
    from raremap.tiles.catalog import Catalog

    os.chdir(here)
    experiment = Experiment.from_dict(json.loads(config["experiment"]))

    def reported(step: int, score: float) -> bool:
        if step not in before:
            tune.report({"score": score, "step": step, "ended": ""})
        return True

    # Those the table's keeper has read from the trial's folder.
    before = dict(curve_in(Path(experiment.out)))
    values = json.loads(config["values"])
    trial = run_trial(config["number"], values, experiment, Catalog.load(catalog), metric, reported)
    tune.report({"score": trial.score, "step": trial.steps, "ended": json.dumps(trial.to_dict())})


def _rules(job: Job, bar: Progress) -> tuple[Any, Any]:
    """Our proposals and our stopping rule in the shapes that Ray Tune asks for."""
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler
    from ray.tune.search import Searcher

    left = list(job.left)

    class Proposals(Searcher):
        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            while left:
                number = left.pop(0)
                values = job.values(number)
                try:
                    experiment = job.of_trial(number)
                except ConfigError as error:
                    _keep(job, bar, Trial(number, values, "failed", error=str(error)))
                    continue
                job.begin(number)
                data = json.dumps(experiment.model_dump(mode="json"))
                return {"number": number, "values": json.dumps(values), "experiment": data}
            return Searcher.FINISHED  # pyright: ignore[reportReturnType]

        def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
            pass

    class Halving(FIFOScheduler):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            number = trial.config["number"]
            if result["ended"]:
                _keep(job, bar, _whole(json.loads(result["ended"])))
            elif not job.rungs.goes_on(number, result["step"], result["score"]):
                _keep(job, bar, job.stopped(number))
                return TrialScheduler.STOP
            return TrialScheduler.CONTINUE

    return Proposals(), Halving()


def _whole(data: dict[str, Any]) -> Trial:
    """A trial from its plain form."""
    nan = {"score": float("nan")} if data["score"] is None else {}
    return Trial(**{**data, **nan, "curve": tuple((int(s), float(v)) for s, v in data["curve"])})


def _keep(job: Job, bar: Progress, trial: Trial) -> None:
    job.ended(trial)
    bar.advance()
    bar.note(job.line(trial))
