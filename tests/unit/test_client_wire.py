"""What is sent and what is accepted: splitting, run lengths, vectors; and answers that must not be used."""

import base64
import math
from itertools import groupby

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.endpoint import base_url
from gateway.client.errors import InvalidReply
from gateway.client.transport import Reply
from gateway.client.wire import (
    EmbedResult,
    control_headers,
    decode_embeddings,
    decode_info,
    embeddings_body,
    item_tiers,
    joined,
    parse_runs,
    split,
)

TIERS = st.lists(st.sampled_from(["local", "exact", "semantic", "miss"]), min_size=1, max_size=200)


def run_lengths(tiers: list[str], always_counted: bool) -> str:
    runs = [(tier, len(list(group))) for tier, group in groupby(tiers)]
    return ",".join(f"{tier}*{n}" if n > 1 or always_counted else tier for tier, n in runs)


def encoded(vector) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def answer(vectors, headers=None, **changed) -> Reply:
    data = [{"object": "embedding", "index": i, "embedding": encoded(v)} for i, v in enumerate(vectors)]
    payload = {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    return Reply("http://gateway", 200, headers or {}, orjson.dumps({**payload, **changed}))


@given(st.lists(st.text(), max_size=50), st.integers(1, 9))
def test_splitting_keeps_every_text_in_order(texts, size):
    """Pieces put together are the texts; none is larger than the limit or empty."""
    pieces = split(texts, size)
    assert [text for piece in pieces for text in piece] == texts
    assert all(1 <= len(piece) <= size for piece in pieces)
    assert len(pieces) == math.ceil(len(texts) / size)


@given(st.lists(st.text(max_size=20), max_size=30), st.integers(1, 40))
def test_splitting_keeps_pieces_below_the_bytes_too(texts, max_bytes):
    """A piece is larger than the limit only when it is one text that is."""
    pieces = split(texts, 1000, max_bytes)
    assert [text for piece in pieces for text in piece] == texts
    assert all(len(piece) == 1 or sum(len(text.encode()) for text in piece) <= max_bytes for piece in pieces)


def test_texts_that_are_no_unicode_are_refused():
    """A lone surrogate cannot be sent; the caller hears it as a ValueError before anything is sent."""
    with pytest.raises(ValueError, match="cannot be sent"):
        embeddings_body(["\ud800"], "m", None, None)
    assert split(["\ud800"]) == [["\ud800"]]


@given(TIERS, st.booleans())
def test_run_lengths_are_read_back(tiers, always_counted):
    """Any sequence of tiers survives its run-length form, with or without counts of one."""
    assert parse_runs(run_lengths(tiers, always_counted), len(tiers)) == tiers


@given(st.text(alphabet="local*miss,0123456789 -²", max_size=30), st.integers(1, 40))
def test_run_lengths_that_do_not_add_up_are_no_tiers(text, count):
    """Whatever arrives, the result is None or exactly one tier for each text."""
    tiers = parse_runs(text, count)
    assert tiers is None or len(tiers) == count


@pytest.mark.parametrize(
    ("summary", "runs", "tiers"),
    [
        ("mixed", "local*2, miss", ["local", "local", "miss"]),
        ("exact", None, ["exact"] * 3),
        ("mixed", None, ["unknown"] * 3),
        (None, None, ["unknown"] * 3),
        ("miss", "miss*2", ["miss"] * 3),
        ("mixed", "local*999999999999999999", ["unknown"] * 3),
        ("mixed", "local*" + "9" * 5000, ["unknown"] * 3),
    ],
)
def test_tiers_fall_back_to_the_summary(summary, runs, tiers):
    """Without readable runs the summary speaks for all items, unless it is `mixed`."""
    assert item_tiers(summary, runs, 3) == tiers


@given(st.permutations(range(5)))
def test_vectors_come_back_in_the_order_of_the_texts(order):
    """Items are placed by their index, whatever order they arrive in."""
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    data = [{"index": i, "embedding": encoded(vectors[i])} for i in order]
    result = decode_embeddings(answer([], data=data), 5, None)
    assert np.array_equal(result.vectors, vectors)
    assert result.vectors.dtype == np.float32
    assert result.vectors.flags.writeable


def test_the_whole_answer_arrives():
    """Tokens, model, request id, fingerprint and tiers are taken from where the gateway puts them."""
    headers = {"x-request-id": "r1", "x-dejavec-fingerprint": "f1", "x-cache": "exact"}
    result = decode_embeddings(answer([[1.0, 0.0]], headers), 1, 2)
    assert (result.usage_tokens, result.model, result.request_id) == (3, "m", "r1")
    assert (result.fingerprint, result.tiers) == ("f1", ["exact"])


BROKEN = {
    "garbage": Reply("http://gateway", 200, {}, b"<html>"),
    "a list": Reply("http://gateway", 200, {}, b"[]"),
    "too few": answer([[1.0]]),
    "too many": answer([[1.0]] * 3),
    "an index twice": answer([], data=[{"index": 0, "embedding": encoded([1.0])}] * 2),
    "an index out of range": answer([], data=[{"index": i, "embedding": encoded([1.0])} for i in (0, 2)]),
    "a negative index": answer([], data=[{"index": i, "embedding": encoded([1.0])} for i in (0, -1)]),
    "an index that is true": answer([], data=[{"index": i, "embedding": encoded([1.0])} for i in (0, True)]),
    "no index": answer([], data=[{"embedding": encoded([1.0])}] * 2),
    "null": answer([], data=[{"index": i, "embedding": None} for i in range(2)]),
    "not base64": answer([], data=[{"index": i, "embedding": "?" * 8} for i in range(2)]),
    "half a float": answer([], data=[{"index": i, "embedding": "AAAAAAAA"} for i in range(2)]),
    "empty vectors": answer([[], []]),
    "different lengths": answer([[1.0, 2.0], [1.0]]),
    "not a number": answer([[1.0], [math.nan]]),
    "infinite": answer([[1.0], [math.inf]]),
    "no usage": answer([[1.0]] * 2, usage=None),
    "tokens that are none": answer([[1.0]] * 2, usage={"total_tokens": None}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers_are_refused_whole(name):
    """An answer that breaks the contract anywhere is not used at all."""
    with pytest.raises(InvalidReply):
        decode_embeddings(BROKEN[name], 2, None)


def test_other_dimensions_than_asked_for_are_refused():
    """A gateway that ignores `dimensions` is noticed."""
    with pytest.raises(InvalidReply, match="not the requested 2"):
        decode_embeddings(answer([[1.0, 2.0, 3.0]]), 1, 2)


def test_only_what_was_given_is_sent():
    """Options left out are left to the gateway; headers only for what was asked."""
    bare = orjson.loads(embeddings_body(["a"], "m", None, None))
    assert bare == {"input": ["a"], "encoding_format": "base64", "model": "m"}
    full = orjson.loads(embeddings_body(["a"], "m", 8, "query"))
    assert (full["model"], full["dimensions"], full["prompt_name"]) == ("m", 8, "query")
    assert control_headers(None, None) == {}
    assert control_headers("no-store", 0.95) == {"x-cache-control": "no-store", "x-min-fidelity": "0.95"}


def test_parts_are_joined_in_order():
    """Vectors, tiers, tokens and request ids of the parts follow one another."""
    parts = [EmbedResult(np.full((n, 2), n, dtype=np.float32), ["miss"] * n, n, "m", f"r{n}", "f1") for n in (1, 2)]
    whole = joined(parts)
    assert whole.vectors[:, 0].tolist() == [1, 2, 2]
    assert (whole.tiers, whole.usage_tokens, whole.request_id) == (["miss"] * 3, 3, "r1,r2")


def test_parts_of_different_lengths_are_refused():
    """Two lengths of vectors in one call are two models."""
    parts = [EmbedResult(np.zeros((1, n), dtype=np.float32), ["miss"], 1, "m", "r", None) for n in (2, 3)]
    with pytest.raises(InvalidReply):
        joined(parts)


def test_info_is_read_and_extra_fields_are_ignored():
    """The four fields a client needs; more may follow."""
    body = {"model": "m", "fingerprint": "f", "dimensions": 8, "max_tokens": 256, "new": 1}
    info = decode_info(Reply("http://gateway", 200, {}, orjson.dumps(body)))
    assert (info.model, info.fingerprint, info.dimensions, info.max_tokens) == ("m", "f", 8, 256)
    with pytest.raises(InvalidReply):
        decode_info(Reply("http://gateway", 200, {}, b"{}"))


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_urls_as_openai_clients_write_them(url):
    """A trailing slash and /v1 make no difference."""
    assert base_url(url) == "http://h:1"


@pytest.mark.parametrize("url", ["", "h:1", "ftp://h", "http://"])
def test_what_is_no_url_is_refused(url):
    """A mistyped URL is an error where it is written, not a failed connection later."""
    with pytest.raises(ValueError, match="not an http"):
        base_url(url)
