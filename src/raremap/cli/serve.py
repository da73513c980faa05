"""Maps over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raremap.cli.app import DeviceOption, app


@app.command()
def serve(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE...", help="folders of trained models or ensembles, of imagery and of tables"
        ),
    ],
    host: Annotated[
        str, typer.Option(help="address to listen at; 0.0.0.0 is reached from elsewhere")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="port to listen at; 0: any that is free")
    ] = 8000,
    data: Annotated[Path, typer.Option(help="folder of uploads, maps and the queue")] = Path("raremap-data"),
    api_key: Annotated[
        str | None, typer.Option(envvar="RAREMAP_API_KEY", help="key that requests must send as X-API-Key")
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="height times width of a scene at most")
    ] = 150_000_000,
    max_upload_mb: Annotated[float, typer.Option(min=0.1, help="size of an upload at most")] = 512,
    max_decoded_mb: Annotated[float, typer.Option(min=0.1, help="size of a scene unpacked at most")] = 4096,
    fusion: Annotated[
        Path | None,
        typer.Option(help="fusion.json that joins the one model of imagery and the one of tables"),
    ] = None,
    landslide: Annotated[
        str | None, typer.Option(help="--fusion: class of the model of imagery that is looked for")
    ] = None,
    max_table_mb: Annotated[float, typer.Option(min=0.01, help="size of a table at most")] = 16,
    max_rows: Annotated[int, typer.Option(min=1, help="rows of a table at most")] = 100_000,
    keep_days: Annotated[float, typer.Option(min=0.001, help="days after which results are removed")] = 7,
    queue: Annotated[int, typer.Option(min=1, help="predictions that may wait")] = 32,
    rate: Annotated[float, typer.Option(min=0, help="requests a second from one address; 0: any")] = 50,
    job_minutes: Annotated[float, typer.Option(min=0.01, help="minutes a prediction may take")] = 120,
    source: Annotated[
        str,
        typer.Option(
            help="of scenes by place and date: earth-search, planetary-computer, cdse, sentinelhub, or a STAC API's address"
        ),
    ] = "earth-search",
    collection: Annotated[
        str | None, typer.Option(help="of the STAC API (default: its Sentinel-2 L2A)")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Serve models: an HTTP API, and a page with a map for the browser.

    Example: raremap serve runs/naip/bundle runs/units/bundle --fusion fused/fusion.json
    """
    from raremap.serve.options import ServeOptions
    from raremap.serve.run import run

    if api_key is not None and len(api_key) < 8:
        raise typer.BadParameter("a key has 8 characters at least", param_hint="--api-key")
    options = ServeOptions(
        host=host, port=port, data=data, api_key=api_key, max_pixels=max_pixels, max_upload_mb=max_upload_mb,
        max_decoded_mb=max_decoded_mb, keep_days=keep_days, queue=queue, rate=rate, job_minutes=job_minutes,
        device=device, fusion=fusion, landslide=landslide, max_table_mb=max_table_mb, max_rows=max_rows,
        source=source, collection=collection,
    )  # fmt: skip
    run(bundles, options)
