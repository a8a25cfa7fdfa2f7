"""The documentation: generated parts are current, links resolve, and names exist."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import seqserve
from docs import generate
from service.settings import Settings, variable
from service.telemetry import METRICS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(DOCS.rglob("*.md"))
HAND_WRITTEN = [page for page in PAGES if page.name not in ("CHANGELOG.md", "cli.md", "modules.md")]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
OTHER_VARIABLES = {"SEQSERVE_DATA", "SEQSERVE_CACHE", "SEQSERVE_E2E"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse formats help differently in other versions")
def test_generated_parts_are_current() -> None:
    stale = [name_of(page) for page, text in generate.pages() if page.read_text("utf-8") != text]
    assert stale == [], "run `make docs`"


def test_every_generator_is_used() -> None:
    used = {part["name"] for page in PAGES for part in generate.PART.finditer(page.read_text("utf-8"))}
    assert used == set(generate.PARTS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    for target, anchor in LINK.findall(prose(page)):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), f"{target}#{anchor}"


def test_the_site_contains_every_page() -> None:
    nav = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(nav) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_the_index_links_to_every_page() -> None:
    linked = {target for target, _ in LINK.findall((DOCS / "index.md").read_text("utf-8"))}
    assert linked == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"index.md"}


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name_of)
def test_named_settings_exist(page: Path) -> None:
    known = {variable(field) for field in Settings.model_fields} | OTHER_VARIABLES
    assert set(re.findall(r"SEQSERVE_[A-Z0-9_]*[A-Z]", page.read_text("utf-8"))) - known == set()


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name_of)
def test_named_metrics_exist(page: Path) -> None:
    named = set(re.findall(r"\bseqserve_[a-z_]*[a-z]\b", page.read_text("utf-8")))
    assert {name.removesuffix("_bucket") for name in named} <= {metric.name for metric in METRICS}


def test_code_names_existing_pages() -> None:
    done = subprocess.run(
        ["git", "grep", "-hoE", r"docs/[A-Za-z0-9_/-]+\.md", "--", "*.py", "*.toml", "*.yml", "*.yaml", "Makefile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert {page for page in done.stdout.split() if not (ROOT / page).exists()} == set()


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name_of)
def test_named_files_exist(page: Path) -> None:
    paths = re.findall(
        r"`((?:models|training|service|loadtest|docs|tests|requirements)/[\w./-]+)`", page.read_text("utf-8")
    )
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name_of)
def test_named_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|[`&] ?|^\w+=\S* )make ([a-z]+)", page.read_text("utf-8"), re.MULTILINE))
    assert named - targets == set()


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name_of)
def test_named_commands_have_valid_arguments(page: Path) -> None:
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    code = "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])
    for arguments in re.findall(r"^(?:\$ )?seqserve ([a-z][^\n|#&<>\\]*?)(?:  .*| [|&<>].*)?$", code, re.MULTILINE):
        command, *rest = shlex.split(arguments)
        package = seqserve.PACKAGES[command]
        parser = importlib.import_module(f"{package}.__main__").make_parser()
        if not rest or any(word.isupper() for word in rest):
            continue  # only the name of the command, or a placeholder such as RUN
        try:
            parser.parse_args(shlex.split(arguments))
        except SystemExit:
            pytest.fail(arguments)


def test_the_site_builds_without_warnings_and_without_other_servers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    index = (tmp_path / "index.html").read_text("utf-8")
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?://[^\s\">]+", index) == []
    assert (tmp_path / "search/search_index.js").exists()
