"""Files that may be half written, or not there."""

from pathlib import Path

import pytest

from pipeline.files import mapping_in


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_what_is_half_written_or_no_mapping_is_read_as_an_empty_one(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    assert mapping_in(file) == {}
    for text, found in {'{"a": 1}': {"a": 1}, '{"a": ': {}, "[1, 2]": {}, "7": {}, "": {}}.items():
        file.write_text(text)
        assert mapping_in(file) == found, text
