"""What a server allows and keeps."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from raremap.options import Options


class ServeOptions(Options):
    """Where a server listens and keeps its files, and its limits.

    `max_pixels` are height times width of a scene, `max_decoded_mb` what its bands take unpacked; both are known from
    its header alone. `max_table_mb` and `max_rows` are of a table that is sent; `fusion` is a fusion.json that joins the one
    model of imagery and the one of tables, `landslide` its class where the former has more than two. `queue` is how many predictions may wait; `rate` how many requests one address may make a
    second (0: any), with four seconds' worth at once. `source` and `collection` are where scenes of a place and a date
    come from, as of `acquire`.
    """

    data: Path = Path("raremap-data")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: str | None = Field(default=None, min_length=8)
    max_upload_mb: float = Field(default=512, gt=0)
    max_pixels: int = Field(default=150_000_000, ge=1)
    max_decoded_mb: float = Field(default=4096, gt=0)
    max_table_mb: float = Field(default=16, gt=0)
    max_rows: int = Field(default=100_000, ge=1)
    fusion: Path | None = None
    landslide: str | None = None
    keep_days: float = Field(default=7, gt=0)
    queue: int = Field(default=32, ge=1)
    rate: float = Field(default=50, ge=0)
    job_minutes: float = Field(default=120, gt=0)
    device: str = "auto"
    source: str = "earth-search"
    collection: str | None = None

    @property
    def max_upload_bytes(self) -> int:
        """The same in bytes."""
        return int(self.max_upload_mb * 1e6)

    @property
    def max_table_bytes(self) -> int:
        """The same of a table."""
        return int(self.max_table_mb * 1e6)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")
