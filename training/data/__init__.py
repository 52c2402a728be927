"""Training data: the common on-disk form of face folders, reading them, and converters into it."""

from .folder import FaceFolder, FaceSource, InMemory, to_float
from .index import INDEX_NAME, FaceIndex, Split, derived_split, read_index, require_meta, write_index

__all__ = [
    "INDEX_NAME",
    "FaceFolder",
    "FaceIndex",
    "FaceSource",
    "InMemory",
    "Split",
    "derived_split",
    "read_index",
    "require_meta",
    "to_float",
    "write_index",
]
