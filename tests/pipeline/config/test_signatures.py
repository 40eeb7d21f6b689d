import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict, TypeAdapter

from pipeline.config import signatures
from pipeline.config.groups import CONFIGS
from pipeline.config.signatures import signature, signature_of
from pipeline.config.targets import target_of

TARGETS = sorted(
    {
        line.split("_target_: ")[1].split()[0]
        for file in CONFIGS.rglob("*.yaml")
        for line in file.read_text(encoding="utf-8").splitlines()
        if "_target_: " in line
    }
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(signatures, "CACHE", tmp_path / "cache" / "signatures.json")
    signatures._kept.cache_clear()
    return tmp_path / "cache" / "signatures.json"


def schema(hint: Any) -> Any:
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).json_schema()


def test_what_the_cache_says_of_each_configured_class_is_what_the_class_says() -> None:
    assert len(TARGETS) > 20
    for target in TARGETS:
        signature_of(target, "node")
    signatures._kept.cache_clear()
    for target in TARGETS:
        kept, real = signature_of(target, "node"), signature(target_of(target, "node"))
        assert kept is not real
        assert (kept.title, kept.required, kept.defaults) == (real.title, real.required, real.defaults)
        for name, hint in kept.hints.items():
            assert schema(hint) == schema(real.hint(name)), f"{target}: {name}"
        for name in real.required.keys() - kept.hints.keys():
            assert kept.hint(name) == real.hint(name)


@pytest.mark.parametrize("content", ["", "[]", '{"sources": 1}', '{"sources": "0", "classes": {}}', "{}}"])
def test_a_cache_of_other_sources_or_a_damaged_one_is_written_anew(cache: Path, content: str) -> None:
    cache.parent.mkdir()
    cache.write_text(content)
    assert "base" in signature_of("modules.positions.Rotary", "node").required
    assert list(json.loads(cache.read_text())["classes"]) == ["modules.positions.Rotary"]


def test_a_cache_that_cannot_be_written_changes_nothing(cache: Path) -> None:
    cache.parent.write_text("a file where the folder would be")
    assert signature_of("modules.positions.Rotary", "node").defaults == {"base": 10000.0}
