"""The model folder: `bundle.json` beside the graph, the tokenizer and the static embedding.

    <bundle>/
      bundle.json           this module's Bundle, as JSON
      model.onnx            the arrays of `engine.feeds` (packed tokens) -> embeddings float32[B, dimensions]
      tokenizer.json        no padding; truncation at max_tokens
      static_embedding.npz  token vectors distilled from the graph, for the semantic tier's look-ups
      check_vectors.npz     some texts' vectors, compared at every start: see `engine.model.check_vectors`

The fingerprint covers everything that decides a vector's bytes. The graph's hash covers the weights, the
quantisation recipe with its calibrated scales, pooling and normalisation; tokenizer, maximum length and the
kernel class it runs with come on top. Prompts are not part of it: they change the token ids themselves.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

BUNDLE_FILE = "bundle.json"
GRAPH_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
STATIC_EMBEDDING_FILE = "static_embedding.npz"
CHECK_FILE = "check_vectors.npz"
FORMAT_VERSION = 3
MAX_TOKENS = 131_072  # far above any embedding model; a text's run must fit into memory

Pooling = Literal["mean", "cls", "last"]
Precision = Literal["int8", "fp32", "fp16"]


class BundleError(Exception):
    """A folder that is not a usable model bundle; the message names the file and the remedy."""


class Bundle(BaseModel):
    """The content of `bundle.json`. `provenance` has for each choice (pooling, prompts, ...) where it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    model: str  # the name clients use, "all-MiniLM-L6-v2"
    source: str  # hub id or folder name it was built from
    source_sha256: str  # of model.safetensors, or of an imported graph and its external data
    tokenizer_sha256: str  # of the bundle's tokenizer.json
    graph_sha256: str  # of the bundle's model.onnx
    static_embedding_sha256: str  # of the bundle's static_embedding.npz
    check_sha256: str  # of the bundle's check_vectors.npz
    precision: Precision
    dimensions: Annotated[int, Field(strict=True, ge=1, le=65_536)]
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)]  # special tokens included
    vocab_size: Annotated[int, Field(strict=True, ge=1, le=16_777_216)]
    pooling: Pooling
    normalize: bool
    matryoshka_dims: list[int] | None = None  # sizes it was trained for besides its own; None: not known
    matryoshka_layer_norm: bool = False  # a shortened vector is cut after a layer norm: `common.matryoshka`
    prompts: dict[str, str]
    default_prompt_name: str | None
    recipe: dict[str, Any]  # how the graph was made: builder version, opset, smoothquant alpha, calibration
    provenance: dict[str, str]
    quality: dict[str, float]  # cosine to FP32 on the calibration hold-out, as measured by the build
    batch_dependent: bool = False  # an imported graph whose vectors change with their batch: each text runs alone

    def fingerprint(self, kernel_class: str) -> str:
        """32 hex digits naming the vectors this bundle gives when computed with `kernel_class`."""
        parts = (self.graph_sha256, self.tokenizer_sha256, str(self.max_tokens), kernel_class)
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16, person=b"dejavec-model").hexdigest()


class _Version(BaseModel):
    """Read first: another version's other fields may have other names."""

    format_version: int


def read_bundle(folder: Path) -> Bundle:
    """Parse `<folder>/bundle.json`. Raises BundleError."""
    path = folder / BUNDLE_FILE
    if not path.is_file():
        raise BundleError(f"no model bundle at {folder} ({BUNDLE_FILE} is missing): run `dejavec model build`")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
    try:
        version = _Version.model_validate_json(content).format_version
        if version != FORMAT_VERSION:
            raise BundleError(f"{path} has format {version}, this version reads {FORMAT_VERSION}: build it again")
        return Bundle.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(f"{path} is not a bundle of this version; build it again: {_faults(error)}") from None


def check_files(folder: Path, bundle: Bundle) -> None:
    """Compare the files' SHA-256 with `bundle.json`. Raises BundleError naming the file."""
    files = {
        GRAPH_FILE: bundle.graph_sha256,
        TOKENIZER_FILE: bundle.tokenizer_sha256,
        STATIC_EMBEDDING_FILE: bundle.static_embedding_sha256,
        CHECK_FILE: bundle.check_sha256,
    }
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path} is missing; build the bundle again")
        try:
            found = sha256_of(path)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from None
        if found != expected:
            raise BundleError(f"{path} is not the file the bundle was made with; build the bundle again")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_tokenizer(content: bytes, max_tokens: int) -> Tokenizer:
    """A bundle's tokenizer: never pads, truncates at the model's own limit whatever the file has.

    Raises BundleError when the content is not a tokenizer, or has no room for a token within that limit.
    """
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises bare Exception from Rust
        raise BundleError(f"not a tokenizer.json: {error}") from None
    special_tokens = tokenizer.num_special_tokens_to_add(is_pair=False)
    if not special_tokens < max_tokens <= MAX_TOKENS:
        raise BundleError(
            f"max_tokens: {max_tokens} is not between {special_tokens + 1} (the special tokens and one more) and "
            f"{MAX_TOKENS}; build the bundle again"
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=max_tokens)
    return tokenizer


def _faults(error: ValidationError) -> str:
    """The fields and what is wrong with each, in one line; the first five."""
    faults = error.errors(include_url=False)[:5]
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}" for fault in faults)
