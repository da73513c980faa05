import os

import pytest

from raremap.errors import OutputError
from raremap.files import written


def test_a_whole_file_takes_the_name_and_nothing_else_stays(tmp_path):
    with written(tmp_path / "new" / "a.txt") as path:
        path.write_text("whole")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_text() == "whole"
    assert os.listdir(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_keeps_the_older_file(tmp_path, fault):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def half():
        with written(target) as path:
            path.write_text("half")
            raise fault

    with pytest.raises(fault):
        half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_in_the_way_is_told_in_one_line(tmp_path):
    with pytest.raises(OutputError, match="is a folder, expected a file name"), written(tmp_path):
        pass


def test_a_full_disk_is_told_and_nothing_stays(tmp_path):
    with pytest.raises(OutputError, match="No space left"), written(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), written(tmp_path / "file" / "a.txt"):
        pass
