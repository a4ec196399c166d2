"""Two reports of `loadtest --json` on one page."""

from pathlib import Path

from loadtest.page import compare as compare_page
from loadtest.report import read_report


def compare(files: tuple[Path, Path], html_file: Path) -> str:
    """Write the page; a line that says so. Raises ReportError and OSError."""
    one, other = (read_report(path) for path in files)
    names = [path.name.removesuffix(".json") for path in files]
    if names[0] == names[1]:
        names = [str(path) for path in files]
    html_file.write_text(compare_page.render(((names[0], one), (names[1], other))), encoding="utf-8")
    return f"{html_file}: {names[0]} and {names[1]}"
