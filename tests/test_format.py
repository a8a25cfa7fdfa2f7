"""The tables of models/FORMAT.md list every field of the manifest with its default."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from models import manifest

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
def test_table_lists_the_fields_of_its_part(name: str) -> None:
    assert [row["field"] for row in ROW.finditer(section(name))] == list(PARTS[name].model_fields)


@pytest.mark.parametrize("name", PARTS)
def test_table_gives_the_default_of_each_field(name: str) -> None:
    for row in ROW.finditer(section(name)):
        field = PARTS[name].model_fields[row["field"]]
        if field.default is PydanticUndefined:
            assert row["default"] == "required", row["field"]
            continue
        assert row["default"] != "required", row["field"]
        default = field.default.model_dump() if isinstance(field.default, BaseModel) else field.default
        written = json.loads(row["default"].strip("`"))
        if isinstance(default, dict) and not written:
            continue  # the table of that part has its defaults
        assert written == (list(default) if isinstance(default, tuple) else default), row["field"]


def test_every_table_of_fields_belongs_to_a_part() -> None:
    titles = {title for title in re.findall(r"^### (\w+)$", PAGE, re.MULTILINE) if "| field |" in section(title)}
    assert titles == set(PARTS)


def test_page_specifies_the_current_version() -> None:
    assert re.findall(r"^# .*version (\d+)$", PAGE, re.MULTILINE) == [str(manifest.FORMAT_VERSION)]
