"""`raremap serve`: the server, until it is stopped."""

from __future__ import annotations

import logging
import socket
import sys
import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from raremap.errors import MissingExtra, OutputError, RaremapWarning
from raremap.files import locked
from raremap.serve.options import ServeOptions

if TYPE_CHECKING:
    from raremap.serve.runner import Runner


def run(bundles: Sequence[str | Path], options: ServeOptions | None = None) -> None:
    """Serve bundles until the process is told to stop.

    Raises `BundleError` where one cannot be loaded, `ConfigError` where a fusion does not fit them, `OutputError` where the data folder or the port cannot be used,
    `AcquireError` where the source of scenes is not known or asks for keys, `MissingExtra` where the extra `serve` is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import rio_tiler  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtra(str(error.name), "serve") from None
    from raremap.serve.app import create_app
    from raremap.serve.place import can_fetch

    options = options or ServeOptions()
    if can_fetch():
        from raremap.workflows.acquire import source_of

        source_of(options.source, options.collection)
    logging.getLogger("raremap.serve").setLevel(logging.INFO)
    if not options.loopback and options.api_key is None:
        warnings.warn(
            f"{options.host} may be reached by others, and there is no key; give one with --api-key",
            RaremapWarning,
            stacklevel=2,
        )
    with locked(options.data), closing(_listening(options)) as listener:
        app = create_app(bundles, options)
        # Loaded before the port answers, so that a wrong bundle is one line and no half a server.
        app.state.runner.start()
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=15,
            timeout_graceful_shutdown=5, ws="none", proxy_headers=False, lifespan="on",
        )  # fmt: skip
        shown = f"[{options.host}]" if ":" in options.host else options.host
        print(
            f"raremap serves {', '.join(_served(app.state.runner))} at http://{shown}:{listener.getsockname()[1]}/"
        )
        sys.stdout.flush()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            app.state.runner.stop()


def _served(runner: Runner) -> list[str]:
    joined = [runner.joined.id] if runner.joined else []
    return [*runner.models, *runner.tables, *joined]


def _listening(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=256)
    except OSError as error:
        raise OutputError(
            f"{options.host}:{options.port} cannot be served ({error.strerror}); choose another --host or --port"
        ) from None
