"""Names for saved files that a user types: they must stay inside the output folder."""

from __future__ import annotations

import os

from .errors import OutputError


def check_prefix(prefix: str, folder: str) -> None:
    """Raise OutputError unless `prefix`, "name" or "folder/name", names something inside the folder."""
    if not os.path.basename(os.path.normpath(prefix)).strip(". ") or prefix.endswith(("/", "\\")) or "\0" in prefix:
        raise OutputError(f'prefix {prefix!r:.80} has no file name; write "name" or "folder/name"')
    root = os.path.abspath(folder)
    target = os.path.abspath(os.path.join(root, prefix.replace("\\", "/")))
    if not target.startswith(os.path.join(root, "")):
        raise OutputError(f'prefix {prefix!r:.80} leads out of the output folder; write "name" or "folder/name"')
