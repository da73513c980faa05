"""Features: further channels made of a scene's bands, window by window, as a whole scene would give them.

`options` says which there are; `Channels` are a scene's bands with features, and `FeatureReader` reads them.
"""
