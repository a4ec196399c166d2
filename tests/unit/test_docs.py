"""The documents: their links, the README's length, and the settings table."""

import re
from pathlib import Path

import pytest

from common.credentials import shown_url
from deploy.config import with_table
from deploy.install import ROOT

MAX_README_LINES = 160
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    titles = (heading.lower() for heading in HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(document: Path) -> None:
    """Each link to a file of this repository names one that exists, and a heading that it has."""
    for link in LINK.findall(CODE.sub("", document.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{link} does not exist"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


def test_readme_is_short() -> None:
    """The README fits on a few screens; details have documents of their own."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_settings_table_is_current() -> None:
    """docs/configuration.md has the table that `dejavec config --markdown` prints; `make docs` writes it."""
    document = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert with_table(document) == document


def test_decisions_are_listed() -> None:
    """ARCHITECTURE.md links every decision."""
    architecture = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\(docs/decisions/([\w-]+\.md)\)", architecture))
    assert linked == {path.name for path in (ROOT / "docs" / "decisions").glob("*.md")}


def test_documents_name_tests_that_exist() -> None:
    """What a promise is shown by is there to be run."""
    named = {name for path in DOCUMENTS for name in re.findall(r"`(tests/[\w/]+\.py)`", path.read_text("utf-8"))}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_no_text_installs_dejavec_from_an_index() -> None:
    """It is on none: what a document or message says to run names the checkout, or another's package would come."""
    own = [path for place in ("bulk", "cache", "common", "deploy", "engine", "gateway", "loadtest")
           for path in (ROOT / place).rglob("*.py")]  # fmt: skip
    pattern = re.compile(r"install +[\"'`]*dejavec\[")
    documents = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
    assert [str(path) for path in (*documents, *own) if pattern.search(path.read_text("utf-8"))] == []


@pytest.mark.parametrize("name", ["docs/configuration.md", "gateway/console/assets/console.js"])
def test_who_has_secrets_written_to_the_file_has_it_closed(name: str) -> None:
    """`dejavec doctor` warns of a file with secrets that every user can read."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "admin_token" in text
    assert "chmod 600 dejavec.toml" in text


def test_the_start_page_of_the_documents_is_the_real_one() -> None:
    """A URL with a password, as `dejavec up` shows it."""
    shown = shown_url("redis://:secret@127.0.0.1:55255/0")
    assert f"RediSearch 2.10.5 at {shown}\n" in (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
