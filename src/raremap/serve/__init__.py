"""`raremap serve`: maps over HTTP, for a page in the browser and for programs.

    upload → uploads (streamed, bounded) → tiff (its header, without GDAL) → scenes (GDAL, GTiff alone)
           → jobs (SQLite) → runner → worker (a process of its own) → tiles, results

The server itself loads no network: only the worker does. Nothing here imports the training.
"""
