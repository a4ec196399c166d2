"""What may be measured: the usual ways, this engine, and peers, each a backend in an environment of its own."""

import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Group = Literal["usual", "ours", "peer"]

BACKENDS: Final = Path(__file__).with_name("backends")
INSTALL: Final = '.venv/bin/pip install -e ".[study]"'


class StudyError(Exception):
    """The study cannot run; the message has the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run the model: its backend's file, its Python, and whether texts reach it over HTTP."""

    key: str
    name: str
    group: Group
    backend: Path
    python: str = sys.executable
    over_http: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A candidate that was not measured, and why, with the remedy where there is one."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Known:
    name: str
    group: Group
    file: str
    modules: Sequence[str] = ()
    over_http: bool = False


ENGINE, HTTP, CONCURRENT, TORCH = "engine", "http", "http-32", "torch"
KNOWN: Final[dict[str, _Known]] = {
    TORCH: _Known("PyTorch FP32", "usual", "torch_fp32.py", ("torch", "transformers", "sentence_transformers")),
    "onnx": _Known("ONNX Runtime FP32", "usual", "onnx_fp32.py", ("torch", "transformers", "onnx")),
    "onnx-int8": _Known("ONNX Runtime dynamic INT8", "usual", "onnx_int8.py", ("torch", "transformers", "onnx")),
    ENGINE: _Known("dejavec engine, in process", "ours", "dejavec_engine.py"),
    HTTP: _Known("dejavec over HTTP", "ours", "dejavec_http.py", over_http=True),
    CONCURRENT: _Known("dejavec over HTTP, 32 connections", "ours", "dejavec_http_concurrent.py", over_http=True),
    "openvino": _Known("OpenVINO FP32", "peer", "openvino_fp32.py"),
    "openvino-int8": _Known("OpenVINO static INT8 (NNCF)", "peer", "openvino_int8.py"),
    "ctranslate2": _Known("CTranslate2 INT8", "peer", "ctranslate2_int8.py"),
    "llama-cpp": _Known("llama.cpp Q8_0", "peer", "llama_cpp_q8.py"),
    "fastembed": _Known("fastembed FP32", "peer", "fastembed_fp32.py"),
    "infinity": _Known("Infinity INT8, over HTTP", "peer", "infinity_int8.py", over_http=True),
}


def chosen(peers: Iterable[str], leave_out: Iterable[str] = ()) -> tuple[list[Candidate], list[LeftOut]]:
    """The usual ways that are installed here, this engine, and `peers` as --peer gives them; and what is left out.

    Raises StudyError for a peer that cannot be understood, and for names of `leave_out` that are none.
    """
    pythons, own = _peers(peers)
    unwanted = set(leave_out)
    if unknown := unwanted - KNOWN.keys() - {candidate.key for candidate in own}:
        raise StudyError(f"--leave-out {min(unknown)}: there are {', '.join(KNOWN)}")
    candidates, left_out = [], []
    for key, known in KNOWN.items():
        if key in unwanted:
            left_out.append(LeftOut(known.name, "left out by --leave-out"))
        elif key in pythons:
            candidates.append(_candidate(key, pythons[key]))
        elif known.group == "peer":
            left_out.append(LeftOut(known.name, f"no --peer {key}=PYTHON was given: `dejavec study --list-peers`"))
        elif missing := [name for name in known.modules if importlib.util.find_spec(name) is None]:
            left_out.append(LeftOut(known.name, f"needs {', '.join(missing)}: {INSTALL}"))
        else:
            candidates.append(_candidate(key, sys.executable))
    return [*candidates, *(one for one in own if one.key not in unwanted)], left_out


def _candidate(key: str, python: str) -> Candidate:
    known = KNOWN[key]
    return Candidate(key, known.name, known.group, BACKENDS / known.file, python, known.over_http)


def _peers(peers: Iterable[str]) -> tuple[dict[str, str], list[Candidate]]:
    """Pythons for known backends, and candidates with backends of the user's. Raises StudyError."""
    pythons: dict[str, str] = {}
    own: list[Candidate] = []
    for peer in peers:
        name, _, rest = peer.partition("=")
        python, _, file = rest.partition(",")
        # Not resolved: an environment's python is a link, and following it leaves the environment.
        path = str(Path(python).absolute())
        if not name or not Path(python).is_file():
            raise StudyError(f"--peer {peer}: give NAME=PYTHON, or NAME=PYTHON,BACKEND.py; no Python at {python!r}")
        if file:
            if not Path(file).is_file():
                raise StudyError(f"--peer {peer}: no backend at {file}")
            own.append(Candidate(name, name, "peer", Path(file).absolute(), path))
        elif name in KNOWN and KNOWN[name].group != "ours":
            pythons[name] = path
        else:
            usable = ", ".join(key for key, known in KNOWN.items() if known.group != "ours")
            raise StudyError(f"--peer {name}: no such backend; there are {usable}; or give NAME=PYTHON,BACKEND.py")
    return pythons, own
