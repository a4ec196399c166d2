"""A small stream through the real product, with cache off, exact only, everything on."""

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from deploy.embedded_redis import NotAvailable, locate
from loadtest.bench.__main__ import bench


def test_a_stream_is_replayed_in_all_settings(real_bundle: Path, tmp_path: Path) -> None:
    """Repeats come from the cache where it is on, and to the byte; table, picture and JSON have all three settings."""
    try:
        locate()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    texts, document, figures = tmp_path / "texts.txt", tmp_path / "document.md", tmp_path / "figures.json"
    texts.write_text("".join(f"how do I reset card number {number % 10}?\n" for number in range(40)))
    document.write_text("<!-- replays -->\n\n<!-- /replays -->\n")
    outputs = ["--json", str(figures), "--picture", str(tmp_path / "picture.svg"), "--document", str(document)]
    command = ["replays", "--stream", f"cards={texts}", "--bundle", str(real_bundle), "--connections", "2"]
    done = CliRunner().invoke(bench, [*command, "--verify", "1", *outputs])
    assert done.exit_code == 0, done.output
    payload = orjson.loads(figures.read_bytes())
    off, exact, everything = payload["replayed"]
    assert off["shares"]["miss"] == 1
    for one in (exact, everything):
        assert one["shares"]["local"] + one["shares"]["exact"] == pytest.approx(0.75, abs=0.1)  # two at once may miss
        assert one["lowest_cosine"] == 1
        assert one["violations"] == 0
    assert payload["command"] == "python -m loadtest.bench replays --stream ... --connections 2 --verify 1"
    written = document.read_text()
    assert all(f"| {name} |" in written for name in ("cache off", "exact only", "everything on"))
    assert "(picture.svg)" in written
    assert str(tmp_path) not in written
