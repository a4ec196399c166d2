"""The real `dejavec` command in a process of its own."""

import asyncio
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


async def dejavec(folder: Path, *words: object, stdin: bytes | None = None, **variables: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of one command in `folder`; neither may hold a traceback."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.cli", *map(str, words)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin)
    assert b"Traceback" not in out + err
    return process.returncode or 0, out.decode(), err.decode()
