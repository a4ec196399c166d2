"""What a model is for, measured: alike sentences get alike vectors, and queries find their documents.

STS: Spearman correlation, x 100, of cosine similarity with people's scores, equal values sharing their average rank.
Retrieval: nDCG@10, x 100, as BEIR computes it with trec_eval: gain = relevance, discount = log2(rank + 1), the ideal
over all judged documents, the mean over all judged queries, a document with the query's own id left out.
Every graph is measured in one pass over the data; a corpus of any size is read in pieces.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.build.ranks import spearman
from engine.build.verify.embedding import Progress, Runs, embed, pieces, unit_length
from engine.build.verify.tables import (
    VerificationError,
    count_documents,
    read_documents,
    read_judgements,
    read_pairs,
    read_queries,
)
from engine.protocol import Float32Array, Int32Array

DEPTH = 10
STS_METRIC = "Spearman x 100"
RETRIEVAL_METRIC = "nDCG@10 x 100"

Encode = Callable[[Sequence[str]], list[Int32Array]]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A task's figure for each graph. `size`: how much was measured, in words."""

    name: str
    metric: str
    size: str
    points: dict[str, float]


def measure_sts(path: Path, encode: Encode, runs: Runs, progress: Progress) -> TaskScore:
    """Spearman over the sentence pairs of a file. Raises VerificationError."""
    pairs = list(read_pairs(path))
    if len(pairs) < 2:
        raise VerificationError(f"{path} holds {len(pairs)} pairs; a correlation needs two")
    progress.step(f"STS: {len(pairs)} pairs of {path}")
    cosines: dict[str, list[Float32Array]] = {name: [] for name in runs}
    n_done = 0
    for piece in pieces(pairs):
        first, second = encode([pair.first for pair in piece]), encode([pair.second for pair in piece])
        for name, run in runs.items():
            vectors = unit_length(embed(run, [*first, *second]))
            cosines[name].append(np.sum(vectors[: len(piece)] * vectors[len(piece) :], axis=1))
        n_done += len(piece)
        progress.done(n_done, len(pairs))
    scores = np.array([pair.score for pair in pairs])
    points = {name: 100 * spearman(np.concatenate(parts), scores) for name, parts in cosines.items()}
    return TaskScore(f"STS {path.parent.name}/{path.name}", STS_METRIC, f"{len(pairs)} pairs", points)


def measure_retrieval(
    folder: Path, encode: Encode, runs: Runs, prompts: Mapping[str, str], progress: Progress
) -> TaskScore:
    """nDCG@10 over a corpus; `prompts` "query" and "document" go before the texts. Raises VerificationError."""
    judgements = read_judgements(folder)
    queries = {query_id: text for query_id, text in read_queries(folder).items() if query_id in judgements}
    if not queries:
        raise VerificationError(f"{folder}: none of the queries is judged in qrels.tsv")
    total = count_documents(folder)
    progress.step(f"retrieval: {len(queries)} queries, {total} documents of {folder}")
    before_query, before_document = prompts.get("query", ""), prompts.get("document", "")
    asked = encode([before_query + text for text in queries.values()])
    rankings = {name: Ranking(list(queries), unit_length(embed(run, asked))) for name, run in runs.items()}
    n_done = 0
    for piece in pieces(read_documents(folder)):
        found = encode([before_document + document.text for document in piece])
        for name, run in runs.items():
            rankings[name].add([document.id for document in piece], unit_length(embed(run, found)))
        n_done += len(piece)
        progress.done(n_done, total)
    points = {
        name: 100 * sum(ndcg(ranking.best(query_id), judgements[query_id]) for query_id in queries) / len(queries)
        for name, ranking in rankings.items()
    }
    size = f"{len(queries)} queries, {n_done} documents"
    return TaskScore(f"retrieval {folder.name}", RETRIEVAL_METRIC, size, points)


def ndcg(ranking: Sequence[str], judgements: Mapping[str, float], depth: int = DEPTH) -> float:
    """nDCG of document ids, best first, against relevance by id; 0 where nothing is relevant."""
    gains = [judgements.get(document_id, 0.0) for document_id in ranking[:depth]]
    ideal = _discounted(sorted(judgements.values(), reverse=True)[:depth])
    return _discounted(gains) / ideal if ideal else 0.0


def _discounted(gains: Sequence[float]) -> float:
    return sum(max(gain, 0.0) / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


class Ranking:
    """The best documents of each query, kept while a corpus passes by. Equal similarities: the greater id first."""

    def __init__(self, query_ids: Sequence[str], queries: Float32Array, depth: int = DEPTH) -> None:
        self._queries = queries
        self._depth = depth
        self._best: dict[str, list[tuple[float, str]]] = {query_id: [] for query_id in query_ids}

    def add(self, ids: Sequence[str], documents: Float32Array) -> None:
        """Documents float32[n, dimensions], unit length, with their ids."""
        similarity = self._queries @ documents.T
        wanted = min(self._depth + 1, len(ids))  # one more, since a query's own document does not count
        floors = np.partition(similarity, len(ids) - wanted, axis=1)[:, len(ids) - wanted]
        for (query_id, best), row, floor in zip(self._best.items(), similarity, floors, strict=True):
            best += [(float(row[i]), ids[i]) for i in np.flatnonzero(row >= floor).tolist() if ids[i] != query_id]
            best.sort(reverse=True)
            del best[self._depth :]

    def best(self, query_id: str) -> list[str]:
        """Ids of a query's best documents, best first."""
        return [document_id for _, document_id in self._best[query_id]]
