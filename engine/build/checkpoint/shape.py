"""A checkpoint's `config.json` as the numbers that decide its graph, whatever its family calls them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.build.checkpoint.families import Family, family_of, supported_types
from engine.build.errors import CheckpointError, UnsupportedModel

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
GATED_ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu"}  # NomicBERT's published names, under activation_function
GLOBAL_LAYER, LOCAL_LAYER = "full_attention", "sliding_attention"
GLOBAL_EVERY = 3  # ModernBERT's defaults, where config.json names none
GLOBAL_BASE, LOCAL_BASE, LOCAL_TOKENS = 160_000.0, 10_000.0, 128


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions: channel pair i of a head turns by position / (base^i * divisor)^(2 / head_size)."""

    base: float
    divisor: float = 1.0


@dataclass(frozen=True, slots=True)
class Attention:
    """One layer's attention. `window`: how far a token sees to either side; None for the whole text."""

    rotary: Rotary | None = None
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of `config.json` that decide the graph's structure."""

    family: Family
    hidden: int
    heads: int
    intermediate: int
    activation: str
    epsilon: float
    position_offset: int  # RoBERTa's and MPNet's positions start at pad_token_id + 1
    max_positions: int  # usable ones, the offset already taken off
    vocab_size: int
    pad_token_id: int
    attention: tuple[Attention, ...]  # one a layer

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.attention)

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden // self.heads


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The structure named by `config.json`. Raises UnsupportedModel or CheckpointError."""
    model_type = config.get("model_type")
    family = family_of(model_type)
    if family is None:
        raise UnsupportedModel(
            f"model_type {model_type!r} has no graph here; supported are {', '.join(supported_types())}"
            " (MiniLM, BGE, E5, GTE, Arctic, Nomic and other models of these types); for others, `dejavec model import`"
            " takes a graph in ONNX, and `dejavec model build --exporter optimum` makes one"
        )
    _refuse_variants(config, family)
    read = _Config(config, family)
    try:
        pad_token_id = int(config.get("pad_token_id") or 0)
        offset = pad_token_id + 1 if family.positions_after_padding else 0
        layers = int(read["layers"])
        return Shape(
            family=family,
            hidden=int(read["hidden"]),
            heads=int(read["heads"]),
            intermediate=int(read["intermediate"]),
            activation=read.activation(),
            epsilon=float(read.get("epsilon", family.epsilon)),
            position_offset=offset,
            max_positions=_max_positions(config, int(read["positions"])) - offset,
            vocab_size=int(config["vocab_size"]),
            pad_token_id=pad_token_id,
            attention=tuple(_attention(config, read, layer) for layer in range(layers)),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"config.json is not that of a {model_type} model: {error!r}") from None


class _Config:
    """`config.json` under our own names: `read["hidden"]`."""

    def __init__(self, config: Mapping[str, Any], family: Family) -> None:
        self._config = config
        self._family = family

    def __getitem__(self, name: str) -> Any:
        keys = self._family.keys[name]
        value = self.get(name, None)
        if value is None:
            raise KeyError(keys[0])
        return value

    def get(self, name: str, default: Any) -> Any:
        """The first of the family's keys that has a value."""
        found = (self._config.get(key) for key in self._family.keys.get(name, ()))
        return next((value for value in found if value is not None), default)

    def activation(self) -> str:
        """The activation's name; NomicBERT's published ones have the gate in them. Raises UnsupportedModel."""
        keys = self._family.keys["activation"]
        key = next((key for key in keys if key in self._config), keys[-1])
        given = self._config.get(key) or "gelu"
        known = GATED_ACTIVATIONS if key == "activation_function" else {name: name for name in ACTIVATIONS}
        if given not in known:
            raise UnsupportedModel(f"{key} {given!r} is not supported; known are {', '.join(known)}")
        return known[given]

    def rotary_base(self) -> float:
        """The base of rotary positions, at the top of config.json or among `rope_parameters`."""
        nested = (self._config.get("rope_parameters") or {}).get("rope_theta")
        return float(nested or self.get("base", self._family.rotary_base))


def _refuse_variants(config: Mapping[str, Any], family: Family) -> None:
    for key, values in family.only.items():
        if key in config and config[key] not in values:
            raise UnsupportedModel(f"{key} {config[key]!r} is not supported; only {values[0]!r} is")
    if config.get("is_decoder"):
        raise UnsupportedModel("a decoder (is_decoder is true) has no graph here; only encoders have")
    read = _Config(config, family)
    hidden, heads = read.get("hidden", 0), read.get("heads", 1)
    if not heads or hidden % heads:
        raise CheckpointError(f"config.json: hidden_size {hidden} does not divide into {heads} heads")
    if config.get("head_dim") not in (None, hidden // heads):
        raise UnsupportedModel(f"head_dim {config['head_dim']} is not supported; only hidden_size / heads is")


def _max_positions(config: Mapping[str, Any], positions: int) -> int:
    """NomicBERT's scaling changes with the longest text of a batch once that is beyond the trained positions.

    Up to there it does nothing, so that is the limit.
    """
    if config.get("rotary_scaling_factor"):
        return min(positions, int(config["max_trained_positions"]))
    return positions


def _attention(config: Mapping[str, Any], read: _Config, layer: int) -> Attention:
    family = family_of(config["model_type"])
    assert family is not None
    if family.positions != "rotary":
        return Attention()
    if family.types[0] != "modernbert":
        return Attention(_rotary(config.get("rope_parameters") or config.get("rope_scaling"), read.rotary_base()))
    kind = _layer_kinds(config, layer)
    nested = (config.get("rope_parameters") or {}).get(kind) or config.get("rope_scaling")
    key, default = ("global_rope_theta", GLOBAL_BASE) if kind == GLOBAL_LAYER else ("local_rope_theta", LOCAL_BASE)
    base = (nested or {}).get("rope_theta") or config.get(key) or default
    window = None if kind == GLOBAL_LAYER else int(config.get("local_attention", LOCAL_TOKENS)) // 2
    return Attention(_rotary(nested, float(base)), window)


def _layer_kinds(config: Mapping[str, Any], layer: int) -> str:
    kinds = config.get("layer_types")
    if kinds is None:
        return LOCAL_LAYER if layer % int(config.get("global_attn_every_n_layers", GLOBAL_EVERY)) else GLOBAL_LAYER
    if kinds[layer] not in (GLOBAL_LAYER, LOCAL_LAYER):
        raise UnsupportedModel(f"layer_types {kinds[layer]!r} is not supported")
    return str(kinds[layer])


def _rotary(scaling: Mapping[str, Any] | None, base: float) -> Rotary:
    """NTK scaling as GTE has it: a larger base, and all turns slower by a little. It is the same for every length."""
    kind = (scaling or {}).get("rope_type") or (scaling or {}).get("type") or "default"
    if kind == "default":
        return Rotary(base)
    if kind == "ntk" and scaling is not None and not scaling.get("mixed_b"):
        factor = float(scaling["factor"])
        return Rotary(base * factor, factor)
    raise UnsupportedModel(f"rotary positions scaled as {kind!r} are not supported; 'default' and 'ntk' are")
