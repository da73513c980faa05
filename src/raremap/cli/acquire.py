"""From a place and a time to imagery."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raremap.cli.app import JsonOption, QuietOption, app, show


@app.command()
def acquire(
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the days")],
    dates: Annotated[str, typer.Option(metavar="A/B", help="2024-04-01/2024-09-30, 2024-04/.., 2024")],
    bbox: Annotated[str | None, typer.Option(metavar="W,S,E,N", help="box in degrees")] = None,
    polygon: Annotated[Path | None, typer.Option(metavar="FILE", help="polygons, in any CRS")] = None,
    point: Annotated[str | None, typer.Option(metavar="LON,LAT", help="point in degrees")] = None,
    buffer_m: Annotated[float | None, typer.Option(help="--point: metres to each side of it")] = None,
    max_cloud: Annotated[float, typer.Option(help="most cloud cover of a scene, percent")] = 30.0,
    source: Annotated[
        str, typer.Option(help="earth-search, planetary-computer, cdse, sentinelhub, or a STAC API's address")
    ] = "earth-search",
    collection: Annotated[
        str | None, typer.Option(help="of the STAC API (default: its Sentinel-2 L2A)")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--for", metavar="BUNDLE", help="bands, scale, pixel size and nodata as it expects them"
        ),
    ] = None,
    bands: Annotated[str, typer.Option(help="B04,B08 or red,nir; dem, slope (default: ten bands)")] = "",
    resolution_m: Annotated[
        float | None, typer.Option(help="pixel size in metres (default: the bundle's, else 10)")
    ] = None,
    clouds: Annotated[
        Literal["file", "band", "mask"],
        typer.Option(help="scene classes in scl/DATE.tif, as a band SCL, or clouded pixels as nodata"),
    ] = "file",
    scale: Annotated[
        Literal["dn", "reflectance"] | None, typer.Option(help="reflectance x 10000 (default), or 0 to 1")
    ] = None,
    mosaic: Annotated[
        Literal["none", "median", "least-cloud"], typer.Option(help="one image of all days, mosaic.tif")
    ] = "none",
    dem: Annotated[bool, typer.Option("--dem", help="heights and slopes too (Copernicus GLO-30)")] = False,
    clip: Annotated[bool, typer.Option("--clip", help="nodata outside of the polygon")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what there is, fetch nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="fetch however much it is")] = False,
    watch: Annotated[
        float | None, typer.Option(metavar="MINUTES", min=0.01, help="go on looking for new days")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sentinel-2 imagery of a place by dates and clouds, a GeoTIFF a day on one grid; goes on where it was.

    Example: raremap acquire --bbox 2.0,41.3,2.3,41.5 --dates 2024-04/2024-08 --for runs/mine/bundle -o imagery
    """
    from raremap.workflows.acquire import acquire as run
    from raremap.workflows.acquire import watch as keep_looking

    request: dict[str, Any] = dict(
        out=out, dates=dates, bbox=bbox, polygon=polygon, point=point, buffer_m=buffer_m, max_cloud=max_cloud,
        source=source, collection=collection, bundle=bundle,
        bands=[b.strip() for b in bands.split(",") if b.strip()] or None, resolution_m=resolution_m, clouds=clouds,
        scale=scale, mosaic=mosaic, dem=dem, clip=clip, yes=yes, quiet=quiet,
    )  # fmt: skip
    if watch is None:
        show(run(**request, dry_run=dry_run), as_json)
        return
    if dry_run:
        raise typer.BadParameter("--watch fetches what comes; leave out --dry-run", param_hint="--watch")
    for result in keep_looking(watch * 60, **request):
        show(result, as_json)
