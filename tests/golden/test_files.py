"""Files are whole or not there."""

import pytest

from golden.files import replacing, write_text
from hdl.config import MvqError


def test_writes_and_makes_folders(tmp_path):
    path = write_text(tmp_path / "a" / "b.txt", "new")
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "b.txt", "old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(MvqError, match=r"b.txt cannot be written \(No space left on device\)"):
        fail()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MvqError, match=r"x.txt cannot be written \("):
        write_text(tmp_path / "file" / "x.txt", "")
