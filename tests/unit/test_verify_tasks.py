"""Rank correlation, nDCG and rankings, against figures computed by hand; data files read and refused."""

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from engine.build.ranks import average_ranks, spearman
from engine.build.verify.embedding import batches, embed, padding_share
from engine.build.verify.tables import (
    Document,
    VerificationError,
    count_documents,
    read_documents,
    read_judgements,
    read_pairs,
    read_queries,
)
from engine.build.verify.tasks import Ranking, measure_retrieval, measure_sts, ndcg
from engine.protocol import Float32Array, Int32Array


class Silent:
    """Progress that nobody sees."""

    def step(self, what: str) -> None:
        """Nothing."""

    def done(self, count: int, total: int) -> None:
        """Nothing."""


def first_id(texts: Sequence[Int32Array]) -> Float32Array:
    """A model that turns each text by its first id, in degrees."""
    angles = np.deg2rad([float(text[0]) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def numbers(texts: Sequence[str]) -> list[Int32Array]:
    """A tokenizer of texts that are numbers."""
    return [np.array([int(word) for word in text.split()], dtype=np.int32) for text in texts]


def write_collection(folder: Path, documents: dict[str, str], queries: dict[str, str], qrels: list[str]) -> Path:
    """A folder as `--retrieval` takes it."""
    folder.mkdir()
    lines = (f'{{"_id": "{name}", "title": "", "text": "{text}"}}\n' for name, text in documents.items())
    (folder / "corpus.jsonl").write_text("".join(lines))
    rows = (f"{name}\t{text}\n" for name, text in queries.items())
    (folder / "queries.tsv").write_text("query_id\ttext\n" + "".join(rows))
    (folder / "qrels.tsv").write_text("query_id\tdoc_id\trelevance\n" + "".join(f"{row}\n" for row in qrels))
    return folder


def test_equal_values_share_their_average_rank() -> None:
    """2 and 2 take up the second and third place."""
    assert average_ranks(np.array([1.0, 2.0, 2.0, 3.0])).tolist() == [1, 2.5, 2.5, 4]
    assert average_ranks(np.array([5, 5, 5])).tolist() == [2, 2, 2]


def test_spearman_with_ties_by_hand() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: 4.5 / sqrt(4.5 x 5)."""
    assert spearman([1, 2, 2, 3], [10, 30, 20, 40]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman([1, 2, 3], [-1, -8, -27]) == pytest.approx(-1)
    assert spearman([1, 1, 1], [1, 2, 3]) == 0


def test_ndcg_by_hand() -> None:
    """Gains 1, 0, 2 against the ideal 2, 1, 1: relevance is counted as it is, not as 2^relevance - 1."""
    judgements = {"a": 1.0, "c": 2.0, "d": 1.0, "e": 0.0}
    expected = (1 + 2 / math.log2(4)) / (2 + 1 / math.log2(3) + 1 / math.log2(4))
    assert ndcg(["a", "b", "c"], judgements) == pytest.approx(expected)
    assert expected == pytest.approx(0.638788, abs=1e-6)


def test_ndcg_sees_ten_places_and_no_negative_relevance() -> None:
    """The eleventh counts neither in the ranking nor in the ideal; -1 is as good as 0."""
    assert ndcg([*"bcdefghijk", "a"], {"a": 1.0}) == 0
    assert ndcg([str(n) for n in range(10)], {str(n): 1.0 for n in range(12)}) == pytest.approx(1)
    assert ndcg(["b", "a"], {"a": 1.0, "b": -1.0}) == pytest.approx(1 / math.log2(3))
    assert ndcg(["a"], {"a": 0.0}) == 0


def test_a_ranking_in_pieces_is_that_of_the_whole() -> None:
    """Ties included, wherever the corpus is cut; the greater id comes first, as in trec_eval."""
    documents = first_id([np.array([angle], np.int32) for angle in (40, 10, 20, 10, 30, 10, 0)])
    ids = ["a", "b", "c", "d", "e", "f", "g"]
    query = first_id([np.array([10], np.int32)])
    for size in (1, 2, 3, 7):
        ranking = Ranking(["q"], query, depth=4)
        for start in range(0, 7, size):
            ranking.add(ids[start : start + size], documents[start : start + size])
        assert ranking.best("q")[:3] == ["f", "d", "b"], size
        assert ranking.best("q")[3] in "cg"


def test_a_query_does_not_find_itself() -> None:
    """A document with the query's own id is left out, and another takes its place."""
    ranking = Ranking(["b"], first_id([np.array([10], np.int32)]), depth=1)
    ranking.add(["a", "b"], first_id(numbers(["20", "10"])))
    assert ranking.best("b") == ["a"]


def test_retrieval_is_the_mean_over_judged_queries(tmp_path: Path) -> None:
    """One query finds its document first, one second, one is not judged."""
    documents = {"a": "0", "b": "50", "c": "80"}
    queries = {"1": "1", "2": "60", "3": "7"}
    folder = write_collection(tmp_path / "tiny", documents, queries, ["1\ta\t1", "2\tc\t1"])
    score = measure_retrieval(folder, numbers, {"int8": first_id}, {}, Silent())
    assert score.points["int8"] == pytest.approx(100 * (1 + 1 / math.log2(3)) / 2)
    assert (score.name, score.size) == ("retrieval tiny", "2 queries, 3 documents")


def test_prompts_go_before_queries_and_documents(tmp_path: Path) -> None:
    """As the model's card wants it."""
    seen: list[str] = []

    def tokenize(texts: Sequence[str]) -> list[Int32Array]:
        seen.extend(texts)
        return [np.array([1], np.int32) for _ in texts]

    folder = write_collection(tmp_path / "tiny", {"a": "x"}, {"1": "y"}, ["1\ta\t1"])
    measure_retrieval(folder, tokenize, {"int8": first_id}, {"query": "q: ", "document": "d: "}, Silent())
    assert seen == ["q: y", "d: x"]


def test_sts_of_every_graph(tmp_path: Path) -> None:
    """Closer sentences have higher scores: 100; the other way about: -100. Other columns do not matter."""
    path = tmp_path / "dev.tsv"
    path.write_text("genre\tscore\tsentence1\tsentence2\nx\t5\t10\t11\nx\t2.5\t10\t30\nx\t0\t10\t80\n")

    def contrary(texts: Sequence[Int32Array]) -> Float32Array:
        return first_id([np.array([text[0] * (1 + 90 // max(1, text[0] - 10))], np.int32) for text in texts])

    score = measure_sts(path, numbers, {"int8": first_id, "fp32": contrary}, Silent())
    assert score.points["int8"] == pytest.approx(100)
    assert score.points["fp32"] < 100
    assert score.size == "3 pairs"


def test_batches_are_the_engines_and_the_order_is_kept() -> None:
    """Similar lengths run together, each text once, and vectors come back in the order asked."""
    texts = [np.full(length, length, np.int32) for length in (3, 200, 4, 201, 3)]
    assert sorted(chain.from_iterable(batches(texts))) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(embed(first_id, texts), first_id(texts))
    assert padding_share(texts) < 0.01
    assert padding_share([np.zeros(8, np.int32)] * 5) == 0


def test_documents_are_title_and_text(tmp_path: Path) -> None:
    """Either may be missing; empty lines are none."""
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "1", "title": "T", "text": "x"}\n\n{"_id": 2, "text": "y"}\n')
    assert list(read_documents(tmp_path)) == [Document("1", "T x"), Document("2", "y")]
    assert count_documents(tmp_path) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("queries.tsv", "id\ttext\n", "names no column query_id"),
        ("queries.tsv", "", "names no column query_id, text"),
        ("queries.tsv", "query_id\ttext\n1\n", "line 2: 1 columns, 2 are needed"),
        ("qrels.tsv", "query_id\tdoc_id\trelevance\n1\t2\tmuch\n", "line 2: 'much' is not a number"),
        ("corpus.jsonl", '{"_id": "1"}\n[]\n', "line 2: not a JSON object"),
        ("corpus.jsonl", '{"text": "x"}\n', "line 1: not an object"),
        ("pairs.tsv", b"score\tsentence1\tsentence2\n1\t\xff\t\n", "cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """So that it can be mended."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    readers = {
        "queries.tsv": lambda: read_queries(tmp_path),
        "qrels.tsv": lambda: read_judgements(tmp_path),
        "corpus.jsonl": lambda: list(read_documents(tmp_path)),
        "pairs.tsv": lambda: list(read_pairs(tmp_path / name)),
    }
    with pytest.raises(VerificationError, match=message):
        readers[name]()


def test_data_that_measures_nothing_is_refused(tmp_path: Path) -> None:
    """A collection without a judged query, a correlation of one pair."""
    folder = write_collection(tmp_path / "tiny", {"a": "1"}, {"1": "1"}, ["2\ta\t1"])
    with pytest.raises(VerificationError, match="none of the queries is judged"):
        measure_retrieval(folder, numbers, {"int8": first_id}, {}, Silent())
    (tmp_path / "one.tsv").write_text("score\tsentence1\tsentence2\n1\t1\t2\n")
    with pytest.raises(VerificationError, match="needs two"):
        measure_sts(tmp_path / "one.tsv", numbers, {"int8": first_id}, Silent())
    with pytest.raises(VerificationError, match="cannot be read"):
        read_queries(tmp_path / "nowhere")
