from __future__ import annotations

from pathlib import Path

import pytest

from hemaflow.infra.errors import ConfigError
from hemaflow.infra.registry import Registry


def test_entries_register_where_they_are_written_and_keep_their_order() -> None:
    registry: Registry[type] = Registry("shape")

    @registry.register("square")
    class Square:
        pass

    @registry.register("circle")
    class Circle:
        pass

    assert list(registry) == ["square", "circle"]
    assert registry["square"] is Square
    assert registry.find("circle") is Circle


def test_an_unknown_name_is_answered_with_the_right_one() -> None:
    registry: Registry[int] = Registry("shape")
    registry.register("square")(1)
    with pytest.raises(ConfigError, match=r"no shape 'sqare'.*\n.*Did you mean 'square'"):
        registry.find("sqare")


def test_two_entries_of_one_name_are_refused() -> None:
    registry: Registry[int] = Registry("shape")
    registry.register("square")(1)
    with pytest.raises(ValueError, match="two entries called 'square'"):
        registry.register("square")(2)


def test_a_package_is_imported_when_the_registry_is_first_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shapes_for_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from hemaflow.infra.registry import Registry\nS = Registry('shape', __name__)\n"
    )
    (folder / "square.py").write_text("from shapes_for_a_test import S\nS.register('square')(4)\n")
    monkeypatch.syspath_prepend(folder.parent)
    import shapes_for_a_test  # type: ignore[import-not-found]

    assert dict(shapes_for_a_test.S) == {"square": 4}
