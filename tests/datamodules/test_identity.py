"""What tells a corpus from others, without reading its rows."""

from pathlib import Path

import pytest

from datamodules.corpus import Files, Hub, Mirror, Mixture
from datamodules.errors import DataError
from datamodules.storyworld import StoryWorld


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("One.\nTwo.\n")
    return path


def test_files_are_told_apart_by_their_bytes_and_their_split(file: Path) -> None:
    other = file.with_name("b.txt")
    other.write_text("Three.\n")
    assert Files(str(file)).identity() != Files(str(other)).identity()
    assert Files(str(file), str(other)).identity() != Files(str(file), test=str(other)).identity()
    before = Files(str(file)).identity()
    assert Files(str(file)).identity() == before
    file.write_text("One.\nTwo!\n")
    assert Files(str(file)).identity() != before


def test_a_mirror_a_folder_of_the_hub_and_a_mixture_follow_their_files(file: Path) -> None:
    folder = str(file.parent)

    def all_of_them() -> list[str]:
        mirror = Mirror(folder, "a.txt")
        hub = Hub("owner/name", mirror=folder, mirror_train="a.txt")
        return [
            mirror.identity(),
            hub.identity(),
            Hub(folder).identity(),
            Mixture({"a": mirror, "s": StoryWorld(n_train_rows=5)}).identity(),
        ]

    before = all_of_them()
    assert before == all_of_them()
    file.write_text("One.\n")
    assert not set(before) & set(all_of_them())


def test_the_story_world_is_told_by_its_arguments_and_makes_no_rows() -> None:
    large = StoryWorld(n_train_rows=10**12)
    assert large.identity() == StoryWorld(n_train_rows=10**12).identity()
    assert large.identity() != StoryWorld(n_train_rows=10**12, seed=1).identity()


def test_a_source_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)data\.sources\.b: .*there is no such file"):
        Mixture({"a": Files(str(file)), "b": Files("nowhere.txt")}).identity()
