"""The queue on its own: bounded, in order, and what a restart makes of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raremap.errors import OutputError
from raremap.serve.jobs import Jobs, new_id


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "jobs.sqlite", most_waiting=2, keep_days=1)


def added(jobs: Jobs) -> str:
    job = jobs.add(new_id(), "m", {"upload": "u"}, (1, 2, 3, 4))
    assert job is not None
    return job.id


def test_no_more_wait_than_may(jobs: Jobs) -> None:
    first = added(jobs)
    added(jobs)
    assert jobs.add(new_id(), "m", {}) is None
    assert jobs.claim().id == first  # type: ignore[union-attr]
    assert jobs.add(new_id(), "m", {}) is not None


def test_the_oldest_goes_first_and_only_once(jobs: Jobs) -> None:
    ids = [added(jobs), added(jobs)]
    assert jobs.ahead(jobs.get(ids[1])) == 1  # type: ignore[arg-type]
    assert [jobs.claim().id, jobs.claim().id] == ids  # type: ignore[union-attr]
    assert jobs.claim() is None


def test_what_runs_when_the_server_ends_is_begun_again_once_and_then_has_failed(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "j.sqlite", 5, 1)
    job = added(jobs)
    for status in ("queued", "failed"):
        jobs.claim()
        jobs.close()
        jobs = Jobs(tmp_path / "j.sqlite", 5, 1)
        jobs.broken_off(None, "the server")
        assert jobs.get(job).status == status  # type: ignore[union-attr]
    assert jobs.get(job).error.startswith("the server ended 2 times while")  # type: ignore[union-attr]


def test_a_server_that_is_stopped_in_good_order_does_not_count(jobs: Jobs) -> None:
    job = added(jobs)
    for _ in range(5):
        jobs.claim()
        jobs.put_back(job)
    assert jobs.get(job).status == "queued"  # type: ignore[union-attr]
    assert jobs.get(job).attempts == 0  # type: ignore[union-attr]


def test_results_expire_and_what_waits_does_not(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "j.sqlite", 5, keep_days=0.1 / 86_400)
    done, waiting = added(jobs), added(jobs)
    jobs.claim()
    jobs.finish(done, {"areas": []})
    time.sleep(0.15)
    assert jobs.expired() == [done]
    assert jobs.ids() == {waiting}


def test_a_removed_prediction_is_not_brought_back_by_what_the_worker_says(jobs: Jobs) -> None:
    job = added(jobs)
    jobs.claim()
    assert jobs.remove(job)
    jobs.advance(job, 0.5)
    jobs.finish(job, {})
    jobs.broken_off(job, "the worker")
    assert jobs.get(job) is None
    assert not jobs.remove(job)


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be used .* choose another folder with --data"):
        Jobs(tmp_path / "file" / "jobs.sqlite", 1, 1)
