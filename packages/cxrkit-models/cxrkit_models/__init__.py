"""Data of cxrkit: weights that may be passed on, and the finished stages of its profile `demo`.

The folders lie as they do inside of `cxrkit` in a checkout. `cxrkit.config.paths.bundled` finds
them; nothing here is meant to be imported by hand.
"""
