"""The HTTP application: addresses, what they take, what they give."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from raremap.errors import RaremapError
from raremap.serve import results, schemas, tiles
from raremap.serve.faults import Refused
from raremap.serve.guard import Guard, TooLarge
from raremap.serve.jobs import ID_PATTERN, Job, Jobs, new_id
from raremap.serve.models import Model
from raremap.serve.options import ServeOptions
from raremap.serve.place import can_fetch, missing_line
from raremap.serve.runner import Runner
from raremap.serve.scenes import Scene, looked_at
from raremap.serve.uploads import Upload, received

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
    app.add_middleware(Guard, options=options)
    _faults(app)
    _models(app, runner)
    _predictions(app, runner, jobs, options)
    _results(app, runner, jobs)
    _page(app, runner, jobs)
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
        return JSONResponse({"error": str(fault)}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, fault: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": _line(fault.errors())}, 422)

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
    def models() -> list[schemas.ModelRow]:
        """The models, with their cards."""
        return [_model_row(m) for m in runner.models.values()]

    @app.get("/api/models/{id}", tags=["models"])
    def model(id: Annotated[str, Path(max_length=100)]) -> schemas.ModelRow:
        """One model."""
        return _model_row(_known(runner, id))


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "model"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "a GeoTIFF"},
                        "model": {"type": "string", "description": "its id", "maxLength": 100},
                    },
                }
            },
            "application/json": {
                "schema": schemas.Place.model_json_schema(),
                "example": {"model": "landslides", "bbox": [2.1, 41.3, 2.2, 41.4], "date": "2024-07-01"},
            },
        },
    }
}


def _predictions(app: FastAPI, runner: Runner, jobs: Jobs, options: ServeOptions) -> None:
    coming: set[str] = set()

    @app.post(
        "/api/predictions", status_code=202, tags=["predictions"], openapi_extra=_BODY,
        responses={
            408: {"model": schemas.Fault, "description": "Too slow"},
            415: {"model": schemas.Fault, "description": "Neither a form nor JSON"},
            501: {"model": schemas.Fault, "description": "This server fetches no scenes"},
            507: {"model": schemas.Fault, "description": "The server's disk is full"},
        },
    )  # fmt: skip
    async def predict(request: Request) -> schemas.Accepted:
        """Map a GeoTIFF, or a place and a date whose scene is fetched."""
        kind = request.headers.get("content-type", "")
        job_id = new_id()
        if kind.split(";")[0].strip().lower() == "application/json":
            task, model, bounds = await _placed(request, runner, options.max_pixels)
            return _queued(job_id, model, task, bounds)
        if jobs.waiting() + len(coming) >= options.queue:
            raise _full(options)
        folder = runner.folder(job_id)
        coming.add(job_id)
        try:
            await run_in_threadpool(folder.mkdir, parents=True, exist_ok=True)
            path = folder / results.UPLOAD
            upload = await received(request.stream(), kind, path, options.max_upload_bytes)
            model = _known(runner, upload.fields.get("model", ""), 422)
            scene = await run_in_threadpool(_checked, path, upload, model, options)
            task = {"upload": results.UPLOAD, "called": upload.called}
            return _queued(job_id, model, task, scene.bounds)
        except OSError as error:
            raise Refused(
                507, f"the file cannot be stored ({error.strerror}); ask who runs this server"
            ) from None
        finally:
            coming.discard(job_id)
            if jobs.get(job_id) is None:
                await run_in_threadpool(shutil.rmtree, folder, True)

    def _queued(job_id: str, model: Model, task: dict[str, Any], bounds: Any) -> schemas.Accepted:
        if jobs.add(job_id, model.id, task, bounds) is None:
            raise _full(options)
        runner.wake()
        return schemas.Accepted(id=job_id, status="queued", url=f"/api/predictions/{job_id}")

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
        shown = (job.result or {})["shown"]
        model = _known(runner, job.model)
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
        found = _drawn(tiles.pixel, runner.folder(id), _known(runner, job.model), lon, lat)
        if found is None:
            raise Refused(404, f"{lon:g} {lat:g} lies outside of this map")
        return schemas.Pixel(**found)

    for kind, (last, name, media) in results.FILES.items():
        _file(app, runner, jobs, kind, last, name, media)


def _file(app: FastAPI, runner: Runner, jobs: Jobs, kind: str, last: str, name: str, media: str) -> None:
    """The address of one file of a prediction; its name is ours."""

    @app.get(
        f"/api/predictions/{{id}}/{last}", tags=["results"], name=kind, operation_id=f"file_{kind}",
        response_class=FileResponse, responses={200: {"content": {media: {}}}, **_NOT_YET},
    )  # fmt: skip
    def file(id: JobId) -> FileResponse:
        _done(jobs, id)
        path = runner.folder(id) / name
        if not path.is_file():
            raise _nothing(id)
        shown = "inline" if media == "image/png" else "attachment"
        return FileResponse(
            path, media_type=media, filename=f"{id[:8]}-{last}", content_disposition_type=shown, headers=_KEPT
        )


def _page(app: FastAPI, runner: Runner, jobs: Jobs) -> None:
    @app.get("/healthz", tags=["server"])
    def health() -> schemas.Health:
        """Whether the server is well."""
        return schemas.Health(status="ok", models=len(runner.models), queued=jobs.waiting())

    if (PAGE / "index.html").is_file():
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    else:

        @app.get("/", include_in_schema=False)
        def placeholder() -> HTMLResponse:
            return HTMLResponse(_PLACEHOLDER)


# ---- what the addresses share


def _known(runner: Runner, model_id: str, status: int = 404) -> Model:
    if model_id not in runner.models:
        raise Refused(
            status,
            f"no model is called {model_id[:40]!r}; known: {', '.join(runner.models)}"
            if model_id
            else f"name a model in the field 'model'; known: {', '.join(runner.models)}",
        )
    return runner.models[model_id]


def _nothing(job_id: str) -> Refused:
    return Refused(404, f"no prediction is called {job_id}; it may have been removed, or be too old")


def _full(options: ServeOptions) -> Refused:
    return Refused(429, f"{options.queue} predictions wait already; try again in 10 s", {"retry-after": "10"})


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


def _checked(path: FilePath, upload: Upload, model: Model, options: ServeOptions) -> Scene:
    most = int(options.max_decoded_mb * 1e6)
    return looked_at(path, str(upload.called), model.bands, options.max_pixels, most)


async def _placed(request: Request, runner: Runner, most_pixels: int) -> tuple[dict[str, Any], Model, Any]:
    """What a place and a date ask for."""
    try:
        place = schemas.Place.model_validate_json(await request.body())
    except ValidationError as fault:
        raise Refused(422, _line(fault.errors())) from None
    model = _known(runner, place.model, 422)
    if not can_fetch():
        raise Refused(501, missing_line())
    task = {
        "bbox": list(place.bbox), "date": place.date.isoformat(), "called": "the scene", "max_pixels": most_pixels,
    }  # fmt: skip
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


def _line(errors: Sequence[Any]) -> str:
    """The first of pydantic's remarks in one line."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("path", "query", "body"))
    text = first["msg"].removeprefix("Value error, ")
    return f"{where}: {text[0].lower()}{text[1:]}" if where else text


def _model_row(model: Model) -> schemas.ModelRow:
    data = model.to_dict()
    return schemas.ModelRow(card_markdown=data.pop("card"), **{k: data[k] for k in _MODEL_KEYS})


_MODEL_KEYS = ("id", "name", "bands", "classes", "resolution_m", "metrics")


def _prediction_row(job: Job, jobs: Jobs) -> schemas.Prediction:
    done = job.status == "done"
    return schemas.Prediction(
        id=job.id, model=job.model, status=job.status, progress=job.progress, error=job.error, bounds=job.bounds,
        ahead=jobs.ahead(job) if job.status == "queued" else None,
        areas=(job.result or {}).get("areas", []),
        files={k: f"/api/predictions/{job.id}/{last}" for k, (last, *_) in results.FILES.items()} if done else {},
        created=_when(job.created), expires=_when(job.expires),
    )  # fmt: skip


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def description(app: FastAPI) -> str:
    """The OpenAPI description as JSON."""
    return json.dumps(app.openapi(), indent=2)
