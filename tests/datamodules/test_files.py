"""A file is written whole, for good, and where it was meant to be written."""

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from datamodules.files import draft_of, open_to_append, sha256_of, write_whole


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    for text in ("first, 在\n", "second"):
        write_whole(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("planted", [".a.txt.draft", ".a.txt.tmp", "a.txt.tmp", "a.txt"])
def test_a_planted_link_is_not_followed(planted: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / planted).symlink_to(victim)
    write_whole(folder / "a.txt", "yours")
    assert victim.read_text() == "mine"
    assert (folder / "a.txt").read_text() == "yours"
    assert not (folder / "a.txt").is_symlink()


def test_a_log_that_is_a_link_is_not_appended_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "log").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        open_to_append(tmp_path / "log")
    assert victim.read_text() == "mine"
    with open_to_append(tmp_path / "own") as log:
        log.write(b"line\n")
    assert (tmp_path / "own").read_bytes() == b"line\n"


def test_writing_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "old")
    with suppress(ZeroDivisionError), draft_of(tmp_path / "a") as draft:
        draft.write(b"half")
        raise ZeroDivisionError
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a": "old"}


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "")
    (tmp_path / "b").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"}
    assert len(modes) == 1


def test_half_of_a_surrogate_pair_costs_no_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "x\udc80y")
    assert (tmp_path / "a").read_bytes() == b"x\\udc80y"
    assert len(sha256_of(tmp_path / "a")) == 64
