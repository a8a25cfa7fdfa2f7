"""models/FORMAT.md is the manifest and the manifest is models/FORMAT.md: field by field, default by default."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from models import manifest
from models.tasks.tag import SCORE_DECIMALS

PAGE = (Path(manifest.__file__).parent / "FORMAT.md").read_text("utf-8")
PARTS = {
    name: part
    for name, part in vars(manifest).items()
    if isinstance(part, type) and issubclass(part, BaseModel) and part.model_fields
}
ROW = re.compile(r"^\| `(?P<field>\w+)` \| (?P<type>.+?) \| (?P<default>.+?) \| .+ \|$", re.MULTILINE)


def section(title: str) -> str:
    found = re.search(rf"^### {title}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"FORMAT.md has no section {title}"
    return found.group(1)


@pytest.mark.parametrize("name", PARTS)
def test_the_table_of_a_part_names_its_fields_and_no_others(name: str) -> None:
    assert [row["field"] for row in ROW.finditer(section(name))] == list(PARTS[name].model_fields)


@pytest.mark.parametrize("name", PARTS)
def test_the_table_gives_the_default_of_every_field(name: str) -> None:
    for row in ROW.finditer(section(name)):
        field = PARTS[name].model_fields[row["field"]]
        if field.default is PydanticUndefined:
            assert row["default"] == "required", row["field"]
            continue
        assert row["default"] != "required", row["field"]
        default = field.default.model_dump() if isinstance(field.default, BaseModel) else field.default
        written = json.loads(row["default"].strip("`"))
        if isinstance(default, dict) and not written:
            continue  # a part that may be left out: its own table has its defaults
        assert written == (list(default) if isinstance(default, tuple) else default), row["field"]


def test_every_part_has_a_table_and_every_table_of_fields_a_part() -> None:
    titles = {title for title in re.findall(r"^### (\w+)$", PAGE, re.MULTILINE) if "| field |" in section(title)}
    assert titles == set(PARTS)


def test_the_page_names_the_version_and_the_patterns_that_the_reader_has() -> None:
    assert f"# The bundle format, version {manifest.FORMAT_VERSION}\n" in PAGE
    for pattern in (r"[a-z0-9][a-z0-9._-]{0,63}", r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"):
        assert f"`{pattern}`" in PAGE
        assert f'pattern=r"^{pattern}$"' in Path(manifest.__file__).read_text("utf-8")
    assert SCORE_DECIMALS > 2  # else rounding would eat the tolerance
