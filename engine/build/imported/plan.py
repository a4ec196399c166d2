"""What an import will do, before the graph is rewritten: the files, what the graph takes and gives, the choices."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.build.calibration import CalibrationTexts, read_texts
from engine.build.checkpoint.choices import OVERRIDE, Choices, choose
from engine.build.checkpoint.dense import dense_weights
from engine.build.checkpoint.families import family_of
from engine.build.checkpoint.files import Checkpoint
from engine.build.errors import CheckpointError, UnsupportedModel
from engine.build.imported.contract import POSITIONS, Contract, read_contract
from engine.build.imported.source import Source, open_source
from engine.bundle import TOKENIZER_FILE, Pooling, Precision, sha256_of
from engine.feeds import PADDED_TO

IMPORTER_VERSION = 1  # raise it whenever the same inputs give another graph or tokenizer
LONGEST = 2048  # tokens, unless the user wants more: an exported graph has all of a text's attention scores in memory
POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_trained_positions")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a user may decide; None leaves it to the files."""

    calibration_file: Path | None = None
    pooling: Pooling | None = None
    prompts: Mapping[str, str] | None = None
    name: str | None = None
    precision: Precision | None = None  # INT8, or FP32 where that is faster or nothing can be INT8
    max_tokens: int | None = None
    force: bool = False  # import again what is there, and keep a graph that is under the bar


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything known before the graph is rewritten."""

    source: Source
    contract: Contract
    choices: Choices
    options: ImportOptions
    texts: CalibrationTexts
    pad_token_id: int
    vocab_size: int

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.options.name or self.source.checkpoint.name

    def inputs(self) -> dict[str, Any]:
        """What decides the bundle's content: a bundle whose recipe has the same need not be made again."""
        checkpoint, choices = self.source.checkpoint, self.choices
        exporter = {"exporter": dict(self.source.exporter)} if self.source.exporter is not None else {}
        return exporter | {
            "importer_version": IMPORTER_VERSION,
            "model": self.name,
            "precision": self.options.precision or "fastest",
            "source_sha256": checkpoint.weights_sha256,
            "tokenizer_source_sha256": sha256_of(checkpoint.folder / TOKENIZER_FILE),
            "calibration_sha256": self.texts.sha256 if self.options.precision != "fp32" else None,
            "pooling": choices.pooling,
            "normalize": choices.normalize,
            "max_tokens": choices.max_tokens,
            "prompts": choices.prompts,
            "default_prompt_name": choices.default_prompt_name,
            "dense_sha256": [sha256_of(dense_weights(checkpoint, folder)) for folder in choices.dense],
        }


@dataclass(frozen=True, slots=True)
class Settled:
    """What the small files decide, before the graph is read or fetched."""

    choices: Choices
    pad_token_id: int
    vocab_size: int


def plan_import(source: str | Path, options: ImportOptions) -> Plan:
    """Read the files and decide what can be decided by them. Raises BuildError."""
    return plan_graph(open_source(source, partial(settle, options=options)), options)


def plan_graph(source: Source, options: ImportOptions) -> Plan:
    """As `plan_import`, for a model that has been read."""
    contract = read_contract(source.model, source.opset)
    if POSITIONS in contract.inputs and _pads_first(source.checkpoint):
        raise UnsupportedModel(f"the graph takes {POSITIONS}, which its model type counts from the padding token on")
    settled = settle(source.checkpoint, options)
    choices = settled.choices
    if contract.tokens is None:
        choices = _as_the_graph_does(choices, options)
    texts = read_texts(options.calibration_file)
    return Plan(source, contract, choices, options, texts, settled.pad_token_id, settled.vocab_size)


def settle(checkpoint: Checkpoint, options: ImportOptions) -> Settled:
    """Read what the files beside a graph say of it. Raises CheckpointError, UnsupportedModel."""
    pad_token_id = _number(checkpoint.config, "pad_token_id") or 0
    positions = _positions(checkpoint.config, options) - (pad_token_id + 1 if _pads_first(checkpoint) else 0)
    choices = _limit(choose(checkpoint, positions, options.pooling, options.prompts), positions, options.max_tokens)
    vocab_size = _number(checkpoint.config, "vocab_size")
    if not vocab_size:
        raise CheckpointError("config.json has no vocab_size, which an import needs")
    return Settled(choices, pad_token_id, vocab_size)


def _pads_first(checkpoint: Checkpoint) -> bool:
    """Whether the type's positions begin behind the padding token's."""
    family = family_of(checkpoint.config.get("model_type"))
    return family is not None and family.positions_after_padding


def _number(config: Mapping[str, Any], key: str) -> int | None:
    """A whole number of config.json that is not negative; None where it has none. Raises CheckpointError."""
    value = config.get(key)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise CheckpointError(f"config.json: {key} is {value!r}, not a number from 0 on")
    return value


def _positions(config: Mapping[str, Any], options: ImportOptions) -> int:
    found = [number for key in POSITION_KEYS if (number := _number(config, key))]
    if not found and options.max_tokens is None:
        raise CheckpointError(
            f"config.json has none of {', '.join(POSITION_KEYS)}: name the longest text with --max-tokens"
        )
    return found[0] if found else options.max_tokens or 0


def _limit(choices: Choices, positions: int, given: int | None) -> Choices:
    """The length with the user's own limit, or LONGEST; padding must not lead beyond the last position."""
    max_tokens, provenance = choices.max_tokens, choices.provenance["max_tokens"]
    if given is not None and given > positions:
        raise CheckpointError(f"--max-tokens {given} is more than the {positions} positions of the model")
    if given is not None:
        max_tokens, provenance = given, OVERRIDE
    elif max_tokens > LONGEST:
        max_tokens, provenance = LONGEST, f"default of imports, below the model's {max_tokens} (see --max-tokens)"
    if -(-max_tokens // PADDED_TO) * PADDED_TO > positions:
        max_tokens = positions // PADDED_TO * PADDED_TO
        provenance += f", and rounded down: texts are padded to multiples of {PADDED_TO}"
    if max_tokens < PADDED_TO:
        raise CheckpointError(f"the model takes {max_tokens} tokens; {PADDED_TO} are the fewest an import can have")
    return replace(choices, max_tokens=max_tokens, provenance=choices.provenance | {"max_tokens": provenance})


def _as_the_graph_does(choices: Choices, options: ImportOptions) -> Choices:
    """Pooling and normalisation are in the graph already, and so are Dense modules."""
    if options.pooling is not None:
        raise UnsupportedModel("the graph gives texts' vectors and no token states, so --pooling cannot be chosen")
    inside = "the exported graph, which gives texts' vectors itself; what the files say is not applied again"
    provenance = choices.provenance | {"pooling": inside, "normalize": "measured on the exported graph"}
    return replace(choices, dense=(), provenance=provenance)
