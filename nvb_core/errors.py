"""Errors that a user can cause and fix. Each message is one line: what is wrong, where, and what to do."""

from __future__ import annotations


class NVBError(Exception):
    """Base of all errors shown to users without a traceback."""


class CameraError(NVBError):
    """A camera, pose or path that cannot be rendered."""


class ImageError(NVBError):
    """An input photo that cannot be read or used."""


class FaceNotFoundError(NVBError):
    """No face (or not the requested one) in a photo."""


class CheckpointError(NVBError):
    """A weights file that does not follow the format."""


class OutputError(NVBError):
    """A result that cannot be written."""


class OccupiedError(NVBError):
    """A place for one result that holds somebody else's files, or that another process is writing to."""


class ConfigError(NVBError):
    """An option outside its allowed range."""


class SamplingCancelled(NVBError):  # noqa: N818
    """Sampling was stopped by its cancel callback."""
