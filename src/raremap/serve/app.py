"""The HTTP application: addresses, what they take, what they give."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from raremap.errors import RaremapError
from raremap.serve import bodies, results, schemas, tiles
from raremap.serve.faults import Refused, first_of, one_line, unknown_model
from raremap.serve.guard import Guard, TooLarge
from raremap.serve.intake import Intake
from raremap.serve.jobs import ID_PATTERN, Job, Jobs, new_id
from raremap.serve.models import Model
from raremap.serve.options import ServeOptions
from raremap.serve.place import no_place, wanted
from raremap.serve.runner import Runner
from raremap.serve.scenes import Scene, looked_at
from raremap.serve.table_app import FAULTS, fused, fused_row, table_row, tables
from raremap.serve.uploads import Slot, received

PAGE = FilePath(__file__).with_name("page")
_PLACEHOLDER = (
    "<!doctype html><title>raremap</title><h1>raremap</h1>"
    '<p>The server runs; its page is not installed. What it can do: <a href="/openapi.json">openapi.json</a>.</p>'
)
_KEPT = {"cache-control": "private, max-age=86400, immutable"}  # ids are never given twice

JobId = Annotated[str, Path(pattern=ID_PATTERN, description="as POST gave it", examples=["0" * 24])]
_FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Fault, "description": what}
    for status, what in {
        400: "The request is damaged", 401: "The key is missing or wrong", 403: "Asked by another site's page",
        404: "There is no such thing", 405: "No such method", 413: "Too large", 421: "Another host's name",
        422: "The input cannot be used", 429: "Too many requests, or too many wait; Retry-After says how long",
    }.items()
}  # fmt: skip
_NOT_YET: dict[int | str, dict[str, Any]] = {409: {"model": schemas.Fault, "description": "Not done"}}


def create_app(bundles: Sequence[str | FilePath], options: ServeOptions | None = None) -> FastAPI:
    """The application of some bundles; its worker starts and ends with it.

    Raises `BundleError` at the start where a bundle cannot be loaded, `OutputError` where `options.data` cannot be used.
    """
    options = options or ServeOptions()
    jobs = Jobs(options.data / "jobs.sqlite", options.queue, options.keep_days)
    runner = Runner(jobs, bundles, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(runner.start)
        try:
            yield
        finally:
            await run_in_threadpool(runner.stop)
            jobs.close()

    app = FastAPI(
        title="raremap", version=version("raremap"), lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Maps from satellite scenes that do not lose the rare classes.", responses=_FAULTS,
    )  # fmt: skip
    app.state.runner, app.state.jobs, app.state.options = runner, jobs, options
    intake = Intake(runner, jobs, options)
    app.add_middleware(Guard, options=options)
    _faults(app)
    _models(app, runner)
    _predictions(app, runner, jobs, intake, options)
    tables(app, runner, intake, options)
    fused(app, runner, intake, options, partial(_checked, options=options))
    _results(app, runner, jobs)
    _health(app, runner, jobs)
    _heads(app)
    _page(app)
    return app


def _faults(app: FastAPI) -> None:
    """Every fault is one line."""

    @app.exception_handler(Refused)
    async def refused(_: Request, fault: Refused) -> JSONResponse:
        return JSONResponse({"error": fault.line}, fault.status, fault.headers)

    @app.exception_handler(TooLarge)
    async def too_large(_: Request, fault: TooLarge) -> JSONResponse:
        return JSONResponse({"error": str(fault)}, 413, {"connection": "close"})

    @app.exception_handler(RaremapError)
    async def unusable(_: Request, fault: RaremapError) -> JSONResponse:
        return JSONResponse({"error": one_line(str(fault))}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, fault: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": first_of(fault.errors())}, 422)

    @app.exception_handler(HTTPException)
    async def http(_: Request, fault: HTTPException) -> JSONResponse:
        line = {404: "there is nothing at this address", 405: "this address does not take this method"}
        said = (
            line.get(fault.status_code) or str(fault.detail or HTTPStatus(fault.status_code).phrase).lower()
        )
        return JSONResponse({"error": said}, fault.status_code, fault.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> JSONResponse:
        return JSONResponse({"error": "the request was broken off"}, 400)

    @app.exception_handler(Exception)
    async def ours(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"error": "the server failed by a fault of its own; its log says more"}, 500)


def _models(app: FastAPI, runner: Runner) -> None:
    @app.get("/api/models", tags=["models"])
    def models() -> list[schemas.AnyModel]:
        """The models by kind, with their cards."""
        return list(_model_rows(runner).values())

    @app.get("/api/models/{id}", tags=["models"])
    def model(id: Annotated[str, Path(max_length=100)]) -> schemas.AnyModel:
        """One model."""
        rows = _model_rows(runner)
        if id not in rows:
            raise unknown_model(id, rows)
        return rows[id]


_BODY = bodies.body(
    bodies.form(
        ("file", "model"), {"file": "scene.tif", "model": "landslides"}, file=bodies.file("a GeoTIFF"),
        model=bodies.MODEL,
    ),
    bodies.json(schemas.Place, {"model": "landslides", "bbox": [2.1, 41.3, 2.2, 41.4], "date": "2024-07-01"}),
)  # fmt: skip


def _predictions(app: FastAPI, runner: Runner, jobs: Jobs, intake: Intake, options: ServeOptions) -> None:
    @app.post(
        "/api/predictions", status_code=202, tags=["predictions"], openapi_extra=_BODY, responses=FAULTS
    )
    async def predict(request: Request) -> schemas.Accepted:
        """Map a GeoTIFF, or a place and a date whose scene is fetched."""
        kind = request.headers.get("content-type", "")
        job_id = new_id()
        if kind.split(";")[0].strip().lower() == "application/json":
            task, model, bounds = await _placed(request, runner, options)
            return intake.queued(job_id, model.id, task, bounds)
        async with intake.folder(job_id) as folder:
            path = folder / results.UPLOAD
            upload = await received(request.stream(), kind, {"file": Slot(path, options.max_upload_bytes)})
            model = _known(runner, upload.fields.get("model", ""), 422)
            called = upload.called["file"]
            scene = await run_in_threadpool(_checked, path, called, model, options)
            task = {"upload": results.UPLOAD, "called": called}
            return intake.queued(job_id, model.id, task, scene.bounds)

    @app.get("/api/predictions/{id}", tags=["predictions"])
    def prediction(id: JobId) -> schemas.Prediction:
        """How far a prediction is; what came of it."""
        return _prediction_row(_job(jobs, id), jobs)

    @app.delete("/api/predictions/{id}", status_code=204, tags=["predictions"])
    def remove(id: JobId) -> Response:
        """Stop a prediction, and remove it with its files."""
        if not runner.cancel(id):
            raise _nothing(id)
        return Response(status_code=204)


def _results(app: FastAPI, runner: Runner, jobs: Jobs) -> None:
    @app.get(
        "/api/predictions/{id}/tiles/{layer}/{z}/{x}/{y}.png", tags=["results"], response_class=Response,
        responses={200: {"content": {"image/png": {}}}, **_NOT_YET},
    )  # fmt: skip
    def tile(
        id: JobId,
        layer: tiles.Layer,
        z: Annotated[int, Path(ge=0, le=tiles.MOST_ZOOM)],
        x: Annotated[int, Path(ge=0, lt=1 << tiles.MOST_ZOOM)],
        y: Annotated[int, Path(ge=0, lt=1 << tiles.MOST_ZOOM)],
    ) -> Response:
        """A map tile of 256² in Web Mercator, clear where there is no data."""
        job = _done(jobs, id)
        if max(x, y) >= 1 << z:
            raise Refused(404, f"zoom {z} has {1 << z} tiles a side; there is no tile {x}/{y}")
        layers = tiles.LAYERS["image" in job.task]
        if layer not in layers:
            raise Refused(404, f"this prediction has no tiles of '{layer}'; it has {' and '.join(layers)}")
        shown = (job.result or {})["shown"]
        model = _known(runner, job.task.get("image", job.model))
        data = _drawn(tiles.tile, runner.folder(id), layer, shown, model, z, x, y)
        return Response(data, media_type="image/png", headers=_KEPT)

    @app.get("/api/predictions/{id}/pixel", tags=["results"], responses=_NOT_YET)
    def pixel(
        id: JobId,
        lon: Annotated[float, Query(ge=-180, le=180, allow_inf_nan=False)],
        lat: Annotated[float, Query(ge=-90, le=90, allow_inf_nan=False)],
    ) -> schemas.Pixel:
        """Class and probabilities at a place."""
        job = _done(jobs, id)
        if "image" in job.task:
            found = _drawn(tiles.fused_pixel, runner.folder(id), (job.result or {})["least"], lon, lat)
        else:
            found = _drawn(tiles.pixel, runner.folder(id), _known(runner, job.model), lon, lat)
        if found is None:
            raise Refused(404, f"{lon:g} {lat:g} lies outside of this map")
        return schemas.Pixel(**found)

    for kind, (last, name, media) in (results.FILES | results.FUSED_FILES).items():
        _file(app, runner, jobs, kind, last, name, media)


def _file(app: FastAPI, runner: Runner, jobs: Jobs, kind: str, last: str, name: str, media: str) -> None:
    """The address of one file of a prediction; its name is ours."""

    @app.get(
        f"/api/predictions/{{id}}/{last}", tags=["results"], name=kind, operation_id=f"file_{kind}",
        response_class=FileResponse, responses={200: {"content": {media: {}}}, **_NOT_YET},
    )  # fmt: skip
    def file(id: JobId) -> FileResponse:
        job = _done(jobs, id)
        if kind not in results.files_of(job.task):
            raise Refused(
                404, f"this prediction has no {last}; it has {', '.join(results.files_of(job.task))}"
            )
        path = runner.folder(id) / name
        if not path.is_file():
            raise _nothing(id)
        shown = "inline" if media == "image/png" else "attachment"
        return FileResponse(
            path, media_type=media, filename=f"{id[:8]}-{last}", content_disposition_type=shown, headers=_KEPT
        )


def _health(app: FastAPI, runner: Runner, jobs: Jobs) -> None:
    @app.get("/healthz", tags=["server"])
    def health() -> schemas.Health:
        """Whether the server is well."""
        return schemas.Health(status="ok", models=len(_model_rows(runner)), queued=jobs.waiting())


def _heads(app: FastAPI) -> None:
    """HEAD at every address that takes GET: GDAL asks so for a file's size before it reads a part of it."""
    for route in list(app.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            app.add_api_route(
                route.path, route.endpoint, methods=["HEAD"], response_class=route.response_class,
                include_in_schema=False,
            )  # fmt: skip


def _page(app: FastAPI) -> None:
    if (PAGE / "index.html").is_file():
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    else:

        @app.get("/", include_in_schema=False)
        def placeholder() -> HTMLResponse:
            return HTMLResponse(_PLACEHOLDER)


# ---- what the addresses share


def _known(runner: Runner, model_id: str, status: int = 404) -> Model:
    if model_id not in runner.models:
        raise unknown_model(model_id, runner.models, status)
    return runner.models[model_id]


def _nothing(job_id: str) -> Refused:
    return Refused(404, f"no prediction is called {job_id}; it may have been removed, or be too old")


def _job(jobs: Jobs, job_id: str) -> Job:
    job = jobs.get(job_id)
    if job is None:
        raise _nothing(job_id)
    return job


def _done(jobs: Jobs, job_id: str) -> Job:
    job = _job(jobs, job_id)
    if job.status != "done":
        raise Refused(409, f"prediction {job_id} is {job.status}; it has no map" + _because(job))
    return job


def _because(job: Job) -> str:
    return f": {job.error}" if job.error else " yet"


def _checked(path: FilePath, called: str, model: Model, options: ServeOptions) -> Scene:
    most = int(options.max_decoded_mb * 1e6)
    return looked_at(path, called, model.bands, options.max_pixels, most)


async def _placed(
    request: Request, runner: Runner, options: ServeOptions
) -> tuple[dict[str, Any], Model, Any]:
    """What a place and a date ask for."""
    try:
        place = schemas.Place.model_validate_json(await request.body())
    except ValidationError as fault:
        raise Refused(422, first_of(fault.errors())) from None
    model = _known(runner, place.model, 422)
    task = await run_in_threadpool(wanted, model, place.bbox, place.date, options)
    return task, model, place.bbox


def _drawn(make: Any, *arguments: Any) -> Any:
    try:
        return make(*arguments)
    except FileNotFoundError:
        raise Refused(404, "this prediction was just removed") from None
    except tiles.FAULTS as fault:
        if not arguments[0].exists():
            raise Refused(404, "this prediction was just removed") from None
        raise fault


def _model_rows(runner: Runner) -> dict[str, schemas.ModelRow | schemas.TableRow | schemas.FusedRow]:
    """All models by id: of scenes, of tables, and what joins them."""
    out: dict[str, schemas.ModelRow | schemas.TableRow | schemas.FusedRow] = {
        m.id: _model_row(m) for m in runner.models.values()
    }
    out |= {t.id: table_row(t) for t in runner.tables.values()}
    if runner.joined is not None:
        out[runner.joined.id] = fused_row(runner.joined)
    return out


def _model_row(model: Model) -> schemas.ModelRow:
    data = model.to_dict()
    return schemas.ModelRow(
        card_markdown=data.pop("card"), no_place=no_place(model), **{k: data[k] for k in _MODEL_KEYS}
    )


_MODEL_KEYS = ("id", "name", "bands", "classes", "resolution_m", "metrics")


def _prediction_row(job: Job, jobs: Jobs) -> schemas.Prediction:
    done = job.status == "done"
    return schemas.Prediction(
        id=job.id, model=job.model, status=job.status, progress=job.progress, error=job.error, bounds=job.bounds,
        ahead=jobs.ahead(job) if job.status == "queued" else None,
        areas=(job.result or {}).get("areas", []),
        files={k: f"/api/predictions/{job.id}/{last}" for k, (last, *_) in results.files_of(job.task).items()} if done else {},
        scene=(job.result or {}).get("scene"), notes=(job.result or {}).get("notes", []),
        fused=(job.result or {}).get("fused"),
        created=_when(job.created), expires=_when(job.expires),
    )  # fmt: skip


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def description(app: FastAPI) -> str:
    """The OpenAPI description as JSON."""
    return json.dumps(app.openapi(), indent=2)
