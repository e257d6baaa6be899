"""Child processes share a row file."""

import os

import pytest

from mobileclip2.data.row_file import RowFile
from tests.processes import run_process


def expect_same_file(file: RowFile, inode: int) -> None:
    assert os.fstat(file._file.fileno()).st_ino == inode
    assert file.read(0, 100) == b"rows"


def test_a_child_process_opens_the_file_instead_of_a_copy():
    file = RowFile(b"rows")
    assert run_process(expect_same_file, file, os.fstat(file._file.fileno()).st_ino) == 0
    assert run_process(expect_same_file, file, 0) == 1
    assert file.append(b" and more") == 4 and file.read(0, 100) == b"rows and more"


def test_a_child_process_cannot_write_to_the_file():
    file = RowFile(b"rows")
    assert run_process(append, file) == 0
    assert file.read(0, 100) == b"rows"


def append(file: RowFile) -> None:
    with pytest.raises(OSError, match="not open for writing"):
        file.append(b"other")
