"""`dejavec model verify` as a process of its own, on the real default bundle."""

import json
import subprocess
import sys
from pathlib import Path


def test_the_default_bundle_passes(real_bundle: Path, tmp_path: Path) -> None:
    """It clears the bars on this machine, the reference is found by itself, and nothing is left behind."""
    before = sorted(path.name for path in real_bundle.iterdir())
    command = ["model", "verify", str(real_bundle), "--no-speed", "--no-keep", "--json", str(tmp_path / "report.json")]
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *command], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSES" in done.stdout
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert report["cosine"]["mean"] >= 0.999
    assert report["cosine"]["min"] >= 0.995
    assert report["batches"]["changed"] == 0
    assert "all-MiniLM-L6-v2" in report["reference"]
    assert sum(report["file_bytes"].values()) < report["reference_graph_bytes"]
    assert sorted(path.name for path in real_bundle.iterdir()) == before
