"""What docs/clients.md tells people to write, run as it stands there; only the gateway's address is put in."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.node_clients import SOURCES, printed_by
from tests.e2e.plain_http import LONG, TEXTS, assert_same, plain, vectors_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE))
BLOCKS = re.findall(r"^\*\*(.+?)\.?\*\*.*\n(?:.+\n)*\n```python\n([\s\S]+?)```", SECTIONS["Python"], re.MULTILINE)
LINES = re.findall(r"```js\n(.+?)```", SECTIONS["Node"], re.DOTALL)
COMMANDS = re.findall(r"```sh\n(.+?)```", SECTIONS["Java, curl and others"], re.DOTALL)
IN_DOCUMENT = "http://127.0.0.1:8080"
NOT_INSTALLED = {"litellm": "LiteLLM takes 240 MB"}

pytestmark = [
    pytest.mark.usefixtures("quiet_client", "garbage_collected"),
    pytest.mark.filterwarnings("ignore"),  # three lines close nothing, and some clients use what others deprecated
]


@pytest.mark.parametrize(("name", "code"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_python(root: str, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines end with the vectors of `texts`."""
    for module, reason in NOT_INSTALLED.items():
        if module in code:
            pytest.importorskip(module, reason=f"{reason}: pip install {module}")
    for variable in ("OPENAI_API_KEY", "HUGGINGFACE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CHROMA_OPENAI_API_KEY", "unused")
    assert IN_DOCUMENT in code
    names: dict[str, Any] = {"texts": TEXTS}
    exec(code.replace(IN_DOCUMENT, root), names)
    assert_same(names["vectors"], plain(root, TEXTS))


@pytest.mark.parametrize("command", COMMANDS)
def test_shell(root: str, command: str, tmp_path: Path) -> None:
    """Its commands print the vectors of the two texts in texts.json, or of `Hello`."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed here")
    (tmp_path / "texts.json").write_text(f'{{"input": ["Hello", "{LONG}"]}}')
    command = command.replace(IN_DOCUMENT, root)
    done = subprocess.run(["sh", "-ec", command], cwd=tmp_path, capture_output=True, timeout=60, check=True)
    vectors = vectors_of(done.stdout)
    assert_same(vectors, plain(root, ["Hello", LONG][: len(vectors)]))


def test_node(root: str) -> None:
    """Each of its clients gives the same vectors."""
    lines = "\n".join(LINES).replace(IN_DOCUMENT, root)
    script = (SOURCES / "document.mjs").read_text().replace("// LINES", lines)
    printed = printed_by(script, json.dumps(TEXTS))
    assert len(printed) == 9
    for one in printed:
        assert_same(one["vectors"], plain(root, TEXTS))


def test_every_client_is_there() -> None:
    """The document was read."""
    assert len(BLOCKS) == SECTIONS["Python"].count("```python") >= 14
    assert len(COMMANDS) == 2
