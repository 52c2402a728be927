from __future__ import annotations

from pathlib import Path

import pytest

from nvb_core.errors import OutputError
from nvb_core.save_prefix import check_prefix


@pytest.mark.parametrize("prefix", ["views", "a/b", "a/../b", "./a", "a.b", "%year%/views"])
def test_names_inside_the_folder_pass(prefix: str, tmp_path: Path) -> None:
    check_prefix(prefix, str(tmp_path))


@pytest.mark.parametrize("prefix", ["../a", "a/../../b", "/a/b", "..\\a", "a\\..\\..\\b", "../" + "{name}x/a"])
def test_names_outside_are_refused(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="leads out of the output folder"):
        check_prefix(prefix.format(name=tmp_path.name), str(tmp_path))


@pytest.mark.parametrize("prefix", ["", ".", "..", "a/", "a\\", "a/..", " ", "a\0b"])
def test_names_without_a_file_are_refused(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="has no file name"):
        check_prefix(prefix, str(tmp_path))
