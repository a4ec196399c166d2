"""Attention over the padded form [B, S] of packed tokens: heads, masks, positions; long texts in tiles of query rows.

Head n of token t is row t * heads + n of a packed matrix, so that one Gather pads and transposes at once.

A query row's result is the same whatever other rows are computed with it, so the scores of long texts,
heads x S x S numbers, are never all there: a Loop computes some query rows after the others. A layer with a window has
tiles of a fixed size, each with just the keys that its rows see: they begin at a fixed place before the tile, because a
sum over keys that began elsewhere could be grouped otherwise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from engine.build.checkpoint.shape import Rotary, Shape
from engine.build.checkpoint.weights import Layer, Linear
from engine.build.graph.inputs import Inputs
from engine.build.graph.linears import Linears, Prepared
from engine.build.graph.onnx_writer import CONTRIB, GraphWriter
from engine.build.graph.positions import relative_table, rotary_tables
from engine.feeds import PADDED_TO
from engine.protocol import Float32Array

MASKED = -1e9  # added to a score; its weight underflows to exactly 0
TILE_SCORES = 524_288  # of one head, of all texts, at a time: 64 rows x 8,192 keys, 25 MB in all with 12 heads
WINDOW_TILE = 128


@dataclass(frozen=True, slots=True)
class Heads:
    """Where attention heads lie; index arrays for Gather on rows of one head each.

    query, key, value: int32[B, heads, S], rows of packed matrices; two of the three share one, twice as wide.
    """

    query: str
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Tiles:
    """How S query rows are cut: `count`, int64, tiles of `size`, int32[1], rows, the last one padded.

    places: int32[count, size], the places of the text that a tile has; packed: int32[T, heads], each packed token's
    row among the results of all tiles, [count, B, heads, size].
    """

    count: str
    size: str
    places: str
    packed: str


class AttentionWriter:
    """Writes the attention of each layer of one graph. What layers share is written once, when first needed."""

    def __init__(
        self,
        graph: GraphWriter,
        shape: Shape,
        linears: Linears,
        inputs: Inputs,
        relative_bias: Float32Array | None,
        tiled: bool,
    ) -> None:
        self._graph = graph
        self._shape = shape
        self._linears = linears
        self._inputs = inputs
        self._relative_bias = relative_bias
        self._tiled = tiled
        self._heads = self._head_places()
        self._longest = graph.cast(graph.op("Shape", inputs.rows, start=1, end=2), np.int32)
        self._packed = "" if self._tiled else self._packed_places()
        self._padding = self._padding_mask()
        self._range = ""
        self._masks: dict[int | None, str] = {}
        self._tiles: dict[bool, Tiles] = {}
        self._position_ids = ""

    def attend(self, x: str, layer: Layer, index: int) -> str:
        """Scaled dot products over the heads of `x`, float32[T, hidden], the same shape back.

        The key's bias adds the same to all scores of a row, which softmax takes out again, unless keys are rotated;
        the value's bias comes through unchanged, because weights add up to 1, and is part of the output's bias.
        """
        attention = self._shape.attention[index]
        query, key, value = self._project(x, layer, f"layer.{index}.qkv", attention.rotary)
        if not self._tiled:
            context = self._attend_to(self._graph, query, key, value, self._mask(attention.window))
            packed = self._packed
        else:
            tiles = self._cut(attention.window is not None)
            body = partial(self._tile, query=query, key=key, value=value, window=attention.window, tiles=tiles)
            context, packed = self._graph.loop(tiles.count, body), tiles.packed
        rows = self._graph.op("Reshape", context, self._graph.integers(-1, self._shape.head_size))
        return self._graph.op(
            "Reshape", self._graph.op("Gather", rows, packed), self._graph.integers(-1, self._shape.hidden)
        )

    def _project(self, x: str, layer: Layer, site: str, rotary: Rotary | None) -> tuple[str, str, str]:
        """Query, key and value, [B, heads, S, head_size]; while the text is tiled, the query as packed rows."""
        graph, heads = self._graph, self._heads
        prepared = self._linears.prepare(graph, x, site)
        multiply = partial(self._multiply, prepared, site)
        if rotary is None:
            query = self._query(multiply("query", [layer.query]))
            both = multiply("key_value", [Linear(layer.key.weight), Linear(layer.value.weight)])
            return query, self._gather(both, heads.key), self._gather(both, heads.value)
        both = self._rotate(multiply("query_key", [layer.query, layer.key]), rotary)
        query, key = self._query(both), self._gather(both, heads.key)
        return query, key, self._gather(multiply("value", [Linear(layer.value.weight)]), heads.value)

    def _multiply(self, prepared: Prepared, site: str, name: str, linears: Sequence[Linear]) -> str:
        """One product for several linear layers of one input: their outputs side by side."""
        biases = [linear.bias for linear in linears if linear.bias is not None]
        assert len(biases) in (0, len(linears)), "either all have a bias or none has"
        weight = np.concatenate([linear.weight for linear in linears], axis=1)
        bias = np.concatenate(biases) if biases else None
        return self._linears.multiply(self._graph, prepared, site, name, weight, bias)

    def _query(self, packed: str) -> str:
        return self._rows(packed) if self._tiled else self._gather(packed, self._heads.query)

    def _gather(self, packed: str, places: str) -> str:
        """[T, n * head_size] -> [B, heads, S, head_size] in one Gather: padded and transposed for one copy."""
        return self._graph.op("Gather", self._rows(packed), places)

    def _rows(self, packed: str) -> str:
        return self._graph.op("Reshape", packed, self._graph.integers(-1, self._shape.head_size))

    def _rotate(self, packed: str, rotary: Rotary) -> str:
        """Turn every head, float32[T, n * head_size], by its token's place: a text of one token for each token."""
        graph, shape = self._graph, self._shape
        if not self._position_ids:
            column = graph.op("Unsqueeze", self._inputs.position_ids, graph.integers(1))
            self._position_ids = graph.cast(column, np.int64)
        cosines, sines = rotary_tables(rotary, shape.head_size, shape.max_positions)
        name = f"rotary_{rotary.base:g}_{rotary.divisor:g}"
        texts = graph.op("Unsqueeze", packed, graph.integers(1))
        tables = (graph.constant(f"{name}.cos", cosines), graph.constant(f"{name}.sin", sines))
        turned = graph.op("RotaryEmbedding", texts, self._position_ids, *tables, domain=CONTRIB)
        return graph.op("Squeeze", turned, graph.integers(1))

    def _attend_to(self, graph: GraphWriter, query: str, key: str, value: str, mask: str) -> str:
        alpha = 1 / math.sqrt(self._shape.head_size)
        scores = graph.op("FusedMatMul", query, key, domain=CONTRIB, transB=1, alpha=alpha)
        weights = graph.op("Softmax", graph.op("Add", scores, mask), axis=-1)
        return graph.op("MatMul", weights, value)

    # Masks and positions.

    def _padding_mask(self) -> str:
        """float32[B, 1, 1, S], added to the scores."""
        graph = self._graph
        is_padding = graph.op("Equal", self._inputs.attention_mask, self._int32("zero", 0))
        mask = graph.op("Where", is_padding, graph.number(MASKED), graph.number(0.0))
        return graph.op("Unsqueeze", mask, graph.integers(1, 2))

    def _mask(self, window: int | None) -> str:
        """What is added to all scores of a whole text; [B, 1, S, S], [B, heads, S, S] or the padding mask itself."""
        if window is None and self._relative_bias is None:
            return self._padding
        if window not in self._masks:
            places = self._places()
            self._masks[window] = self._add_positions(self._graph, self._padding, places, places, window)
        return self._masks[window]

    def _add_positions(self, graph: GraphWriter, mask: str, queries: str, keys: str, window: int | None) -> str:
        """`mask`, float32[B, 1, 1, K], and what depends on places int32[Q] and int32[K]: window, relative bias."""
        if window is None and self._relative_bias is None:
            return mask
        columns = graph.op("Unsqueeze", queries, graph.integers(1))
        distance = graph.op("Sub", graph.op("Unsqueeze", keys, graph.integers(0)), columns)
        if window is not None:
            is_outside = graph.op("Greater", graph.op("Abs", distance), self._int32(f"window_{window}", window))
            mask = graph.op("Add", mask, graph.op("Where", is_outside, graph.number(MASKED), graph.number(0.0)))
        if self._relative_bias is not None:
            limit = self._shape.max_positions + PADDED_TO  # padding may go beyond the last position
            table = graph.constant("relative_bias", relative_table(self._relative_bias, limit))
            nearest = graph.op("Add", distance, self._int32("relative_bias.middle", limit - 1))
            mask = graph.op("Add", mask, graph.op("Gather", table, nearest, axis=1))
        return mask

    def _places(self) -> str:
        """int32[S]: 0, 1, ..."""
        if not self._range:
            end = self._graph.op("Squeeze", self._longest)
            self._range = self._graph.op("Range", self._int32("zero", 0), end, self._int32("one", 1))
        return self._range

    # Where heads lie.

    def _head_places(self) -> Heads:
        graph, heads = self._graph, self._shape.heads
        self._each = graph.constant("each_head", np.arange(heads, dtype=np.int32))
        column = graph.constant("head_column", np.arange(heads, dtype=np.int32)[:, None])
        rows = graph.op("Unsqueeze", self._inputs.rows, graph.integers(1))
        narrow = graph.op("Add", graph.op("Mul", rows, self._int32("heads", heads)), column)
        wide = graph.op("Add", graph.op("Mul", rows, self._int32("key_value_heads", 2 * heads)), column)
        second = graph.op("Add", wide, self._int32("heads", heads))
        if self._shape.family.positions == "rotary":  # query and key are turned together
            return Heads(query=wide, key=second, value=narrow)
        return Heads(query=narrow, key=wide, value=second)

    def _packed_places(self) -> str:
        """int32[T, heads]: each packed token's rows among [B, heads, S]."""
        graph, longest, slots = self._graph, self._longest, self._inputs.slots
        text = graph.op("Div", slots, longest)
        before = graph.op("Mul", graph.op("Mul", text, longest), self._int32("other_heads", self._shape.heads - 1))
        start = graph.op("Unsqueeze", graph.op("Add", slots, before), graph.integers(1))
        return graph.op("Add", start, graph.op("Mul", self._each, longest))

    # Tiles.

    def _cut(self, fixed: bool) -> Tiles:
        if fixed not in self._tiles:
            self._tiles[fixed] = self._write_tiles(fixed)
        return self._tiles[fixed]

    def _write_tiles(self, fixed: bool) -> Tiles:
        """Tiles of WINDOW_TILE rows; or as few as TILE_SCORES allow, of about the same size."""
        graph, longest, slots = self._graph, self._longest, self._inputs.slots
        texts = graph.cast(graph.op("Shape", self._inputs.rows, start=0, end=1), np.int32)
        if fixed:
            size = graph.op("Min", longest, self._int32("window_tile", WINDOW_TILE))
        else:
            keys = graph.op("Mul", texts, longest)
            allowed = graph.op("Div", self._int32("tile_scores", TILE_SCORES), keys)
            some = self._divide_up(longest, graph.op("Max", allowed, self._int32("padded_to", PADDED_TO)))
            quarter = self._divide_up(self._divide_up(longest, some), self._int32("padded_to", PADDED_TO))
            size = graph.op("Mul", quarter, self._int32("padded_to", PADDED_TO))
        count = self._divide_up(longest, size)
        starts = graph.op("Range", self._int32("zero", 0), graph.op("Squeeze", count), self._int32("one", 1))
        rows = graph.op("Range", self._int32("zero", 0), graph.op("Squeeze", size), self._int32("one", 1))
        starts = graph.op("Unsqueeze", graph.op("Mul", starts, size), graph.integers(1))
        last = graph.op("Sub", longest, self._int32("one", 1))
        places = graph.op("Min", graph.op("Add", starts, rows), last)
        # Token s of text b is row s - t * size of tile t: ((t * B + b) * heads + n) * size + s - t * size.
        text = graph.op("Div", slots, longest)
        place = graph.op("Sub", slots, graph.op("Mul", text, longest))
        tile = graph.op("Div", place, size)
        row = graph.op("Sub", place, graph.op("Mul", tile, size))
        block = graph.op("Add", graph.op("Mul", tile, texts), text)
        block = graph.op("Mul", graph.op("Mul", block, self._int32("heads", self._shape.heads)), size)
        start = graph.op("Unsqueeze", graph.op("Add", block, row), graph.integers(1))
        packed = graph.op("Add", start, graph.op("Mul", self._each, size))
        return Tiles(graph.op("Squeeze", graph.cast(count, np.int64)), size, places, packed)

    def _divide_up(self, number: str, divisor: str) -> str:
        graph = self._graph
        return graph.op("Div", graph.op("Sub", graph.op("Add", number, divisor), self._int32("one", 1)), divisor)

    def _tile(
        self, body: GraphWriter, index: str, *, query: str, key: str, value: str, window: int | None, tiles: Tiles
    ) -> str:
        """One tile's part of the attention, float32[B, heads, size, head_size]."""
        queries = body.op("Gather", tiles.places, index)
        tile = body.op("Gather", query, body.op("Gather", self._heads.query, queries, axis=2))
        if window is None:
            mask = self._padding
            if self._relative_bias is not None:
                mask = self._add_positions(body, mask, queries, self._places(), None)
            return self._attend_to(body, tile, key, value, mask)
        reach = self._int32(f"reach_{window}", -(-window // PADDED_TO) * PADDED_TO)
        start = body.op("Mul", body.cast(index, np.int32), tiles.size)
        first = body.op("Max", body.op("Sub", start, reach), self._int32("zeros", 0, shape=(1,)))
        end = body.op("Add", body.op("Add", start, tiles.size), reach)
        key, value = (body.op("Slice", each, first, end, self._int32("axis_2", 2, shape=(1,))) for each in (key, value))
        mask = body.op("Slice", self._padding, first, end, self._int32("axis_3", 3, shape=(1,)))
        keys = body.op("Slice", self._places(), first, end, self._int32("axis_0", 0, shape=(1,)))
        return self._attend_to(body, tile, key, value, self._add_positions(body, mask, queries, keys, window))

    def _int32(self, name: str, value: int, shape: tuple[int, ...] = ()) -> str:
        return self._graph.constant(name, np.full(shape, value, dtype=np.int32))
