"""Imagery of a place and a time: found, fetched by window, and written on one grid."""
