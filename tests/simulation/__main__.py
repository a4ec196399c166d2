"""`python -m tests.simulation --data FOLDER`: the semantic tier's tables; see ARCHITECTURE.md, "The semantic tier"."""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cache.semantic.certificate import binomial_cdf, upper_bound
from cache.semantic.certifier import ROUND_SHARE, CertifierSettings
from cache.semantic.error_budget import ErrorBudgetSettings
from cache.semantic.policy import Policy
from cache.semantic.predictor import Predictor, choose
from cache.semantic.replay import LABEL_LAG, Costs, Outcome
from cache.semantic.static_embedding import StaticEmbedding
from engine.build.static_embedding.quick import spearman
from engine.bundle import STATIC_EMBEDDING_FILE
from tests.bounds import violations_before_opening
from tests.simulation.attacks import TRICKS, attack_texts
from tests.simulation.cost import cost
from tests.simulation.picture import Panel, curve, draw
from tests.simulation.replay import (
    BatchedSums,
    InService,
    Prepared,
    Run,
    Simplified,
    hindsight,
    prepare,
)
from tests.simulation.streams import (
    SOURCES,
    Float32Array,
    Stream,
    Teacher,
    embed_cached,
    load,
    one_after_another,
    shuffled,
)

FIDELITIES = (0.95, 0.92, 0.90)
ALPHAS = (0.01, 0.05)
ENGINE_S = {"revisions": 0.022}  # a long chunk on one core; other streams are short texts
SHORT_ENGINE_S = 0.001
PICTURED = ("banking77, fidelity 0.92", "revisions, fidelity 0.92")
NEIGHBOURS = 16  # 8 cost 1 to 2 points of reuse, see the table
WARM = {"banking77": 6000}


def main() -> None:
    """Parse options, run, print, and write everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the evaluation data")
    parser.add_argument("--cost", action="store_true", help="only time the gateway's side of a look-up")
    parser.add_argument("--bundle", type=Path, default=Path(".dejavec/models/all-MiniLM-L6-v2"))
    parser.add_argument("--static-embedding", type=Path, help="its file; default: the bundle's")
    parser.add_argument("--cache", type=Path, default=Path(".dejavec/simulation"), help="for the engine's vectors")
    parser.add_argument("--streams", nargs="*", default=list(SOURCES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="orders from 200 on are those nothing was chosen on")
    parser.add_argument("--neighbours", type=int, default=NEIGHBOURS)
    parser.add_argument("--skip-ceilings", action="store_true", help="only the runs of auto mode")
    parser.add_argument("--in-service", action="store_true", help="without the simplifications of the tables")
    parser.add_argument("--picture", type=Path, help="write the curves behind the ceilings as SVG")
    parser.add_argument("--out", type=Path, default=Path(".dejavec/simulation/report.json"))
    options = parser.parse_args()
    embedding = StaticEmbedding.from_bytes(
        (options.static_embedding or options.bundle / STATIC_EMBEDDING_FILE).read_bytes()
    )
    if options.cost:
        print(cost(embedding))
        return
    if options.data is None:
        parser.error("--data is needed: the folder with the evaluation data")
    kind = InService if options.in_service else Simplified
    bench = Bench(Teacher(options.bundle), embedding, options.data, options.cache, options.neighbours, kind)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    report = bench.run(options.streams, seeds, options.skip_ceilings)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1))
    if options.picture:
        options.picture.write_text(draw([panel for panel in bench.panels if panel.title in PICTURED]))


class Bench:
    """Runs and prints the tables."""

    def __init__(
        self,
        teacher: Teacher,
        embedding: StaticEmbedding,
        data: Path,
        cache: Path,
        neighbours: int,
        kind: type[Simplified],
    ) -> None:
        self.teacher, self.embedding, self.data, self.cache = teacher, embedding, data, cache
        self.neighbours, self.kind = neighbours, kind
        self.predictor = Predictor.from_meta(embedding.meta)
        self.runs: list[dict[str, object]] = []
        self.panels: list[Panel] = []

    def run(self, names: list[str], seeds: range, skip_ceilings: bool) -> dict[str, object]:
        """All tables."""
        print("static embedding:", self.embedding.meta)
        streams = {name: load(name, self.data, self.teacher, self.cache) for name in names}
        measured = [] if skip_ceilings else list(streams.values())
        ceilings = [row for stream in measured for row in self.ceilings(stream)]
        for stream in streams.values():
            self.auto(stream, seeds)
        for stream in streams.values():
            self.on_mode(stream, seeds)
        self.attacks(seeds)
        self.switches(streams, seeds)
        drifts = [
            row for name in ("banking77", "revisions") if name in streams for row in self.drift(streams[name], seeds)
        ]
        bad = [run for run in self.runs if run["significantly_above"]]
        print(f"\n{len(self.runs)} runs; violation share above alpha with 95 % confidence in {len(bad)}: {bad}")
        return {"static_embedding": self.embedding.meta, "ceilings": ceilings, "runs": self.runs, "drift": drifts}

    def ceilings(self, stream: Stream) -> Iterator[dict[str, object]]:
        """Oracle, hindsight and fixed-threshold figures: every text is looked up among all earlier ones."""
        prepared = prepare(shuffled(stream, 0), self.embedding)
        first = WARM.get(stream.name) or len(set(prepared.order[: prepared.measured_from].tolist())) or 1
        z, true, near, near_true, plain_z, plain_true = [], [], [], [], [], []
        sums = BatchedSums(self.embedding.dimensions)
        alignment: Float32Array | None = None
        for row in range(len(prepared.ids)):
            known = alignment
            sums.add(prepared.static_vectors[row : row + 1], prepared.projected[row : row + 1])
            if sums.is_due:
                alignment = sums.fit()[0].matrix
            candidates = prepared.near[row][: self.neighbours]
            candidates = candidates[candidates >= 0]
            if row < first or not len(candidates):
                continue
            text = prepared.static_vectors[row]
            statics, projected = prepared.static_vectors[candidates], prepared.projected[candidates]
            best = choose(self.predictor, text, statics, projected, known)
            assert best is not None
            z.append(best.z)
            true.append(float(prepared.vectors[row] @ prepared.vectors[candidates[best.index]]))
            plain = choose(self.predictor, text, statics, projected)
            assert plain is not None
            plain_z.append(plain.z)
            plain_true.append(float(prepared.vectors[row] @ prepared.vectors[candidates[plain.index]]))
            near.append(float(text @ prepared.static_vectors[candidates[0]]))
            near_true.append(float(prepared.vectors[row] @ prepared.vectors[candidates[0]]))
        zs, trues, nears, near_trues, plain_zs, plain_trues = (
            np.array(values, dtype=np.float32) for values in (z, true, near, near_true, plain_z, plain_true)
        )
        oracle = _oracle(prepared, first)
        rank = spearman(prepared.static_vectors, prepared.vectors)
        print(f"\n{stream.name}: {len(zs)} texts, Spearman {rank:.2f}")
        for fidelity in FIDELITIES:
            fixed = nears >= 0.92
            row_out: dict[str, object] = {
                "stream": stream.name,
                "texts": len(zs),
                "spearman": rank,
                "fidelity": fidelity,
                "oracle": float((oracle >= fidelity).mean()),
                "ceiling": {alpha: hindsight(zs, trues >= fidelity, alpha) for alpha in ALPHAS},
                "static_ceiling": {alpha: hindsight(nears, near_trues >= fidelity, alpha) for alpha in ALPHAS},
                "static_092": float(fixed.mean()),
                "static_092_violations": float((near_trues[fixed] < fidelity).mean()) if fixed.any() else 0.0,
                "ceiling_without_alignment": {a: hindsight(plain_zs, plain_trues >= fidelity, a) for a in ALPHAS},
                "levels": _levels(zs, trues >= fidelity, fidelity),
            }
            curves = (
                curve("static embedding alone", "#999999", nears, near_trues >= fidelity),
                curve("with kriging", "#4477aa", plain_zs, plain_trues >= fidelity),
                curve("with kriging and the alignment matrix", "#117733", zs, trues >= fidelity),
            )
            within = float((oracle >= fidelity).mean())
            self.panels.append(Panel(f"{stream.name}, fidelity {fidelity}", within, curves))
            print("  ", json.dumps(row_out), flush=True)
            yield row_out

    def auto(self, stream: Stream, seeds: range) -> None:
        """`auto` runs in several orders: cost gate off, and on with this engine and one ten times as expensive."""
        print(f"\n{stream.name}, auto")
        results: dict[tuple[object, ...], list[Outcome]] = {}
        engine_s = ENGINE_S.get(stream.name, SHORT_ENGINE_S)
        for seed in seeds:
            prepared = prepare(shuffled(stream, seed), self.embedding)
            for fidelity in FIDELITIES:
                for alpha in ALPHAS:
                    plan: list[tuple[str, float, bool]] = [("off", engine_s, False)]
                    if alpha == 0.05:
                        plan += [("on", engine_s, True), ("on, 10x", 10 * engine_s, True)]
                    for gate, price_s, is_gated in plan:
                        out = self._run(prepared, fidelity, alpha, seed, price_s, is_gated)
                        results.setdefault((fidelity, alpha, gate), []).append(out)
        for key, outs in results.items():
            fidelity, alpha, gate = key
            print(f"   phi {fidelity} alpha {alpha} cost gate {gate}: {_summary(outs)}", flush=True)

    def on_mode(self, stream: Stream, seeds: range) -> None:
        """`on` from the first request, tau moving: what a newcomer gets, and what it costs in violations."""
        for fidelity in FIDELITIES:
            policy = Policy.of("on", fidelity, 0.05, 0.05, max(fidelity, 0.88), 0.88, 0.98)
            outs = [
                Run(
                    prepare(shuffled(stream, seed), self.embedding),
                    policy,
                    Costs(SHORT_ENGINE_S),
                    seed,
                    neighbours=self.neighbours,
                    kind=self.kind,
                ).run()
                for seed in seeds
            ]
            similarities = [one for out in outs for one in out.similarities]
            early = [one for out in outs for one in out.similarities[:50]]
            requests, below = sum(out.requests for out in outs), fidelity - 0.05
            print(
                f"{stream.name}, on, phi {fidelity}: served {len(similarities) / requests:.1%}, violations "
                f"{_share_below(similarities, fidelity):.1%} (first 50 hits {_share_below(early, fidelity):.1%}; "
                f"by more than .05: {_share_below(similarities, below):.1%}), "
                f"tau at the end {sorted({out.tau or 1.0 for out in outs})}",
                flush=True,
            )

    def switches(self, streams: dict[str, Stream], seeds: range) -> None:
        """A topic that changes once the certificate holds, in every pair of streams that certify."""
        names = [name for name in ("banking77", "revisions", "qqp") if name in streams]
        for before in names:
            for after in (name for name in names if name != before):
                outs = []
                for seed in seeds:
                    joined = one_after_another(streams[before], streams[after], seed)
                    prepared = prepare(joined, self.embedding)
                    outs += [
                        self._run(prepared, fidelity, 0.05, seed, SHORT_ENGINE_S, False) for fidelity in (0.92, 0.90)
                    ]
                print(f"\ntopic switch, {before} then {after}: {_summary(outs)}", flush=True)

    def attacks(self, seeds: range) -> None:
        """Hostile tenants: easy paraphrases first, then look-alikes."""
        for trick in TRICKS:
            outs = []
            for seed in range(2 * seeds.start, 2 * seeds.stop):
                texts = attack_texts(trick, seed)
                ids = self.teacher.tokenize(texts)
                seen: dict[bytes, int] = {}
                order = np.array([seen.setdefault(one.tobytes(), len(seen)) for one in ids])
                distinct = [np.frombuffer(key, dtype=np.int32) for key in seen]
                name = f"attack {trick} {seed}"
                vectors = embed_cached(name.replace(" ", "-"), distinct, self.teacher, self.cache)
                prepared = prepare(Stream(name, order, distinct, vectors), self.embedding)
                outs += [
                    self._run(prepared, fidelity, 0.05, seed, SHORT_ENGINE_S, is_gated=False)
                    for fidelity in (0.92, 0.90)
                ]
            print(f"\nattack, {trick}: {_summary(outs)}", flush=True)

    def drift(self, stream: Stream, seeds: range) -> list[dict[str, object]]:
        """From some hit on every served vector is a violation: how many are served before the breaker opens."""
        rows: list[dict[str, object]] = []
        settings = ErrorBudgetSettings()
        for seed in seeds:
            prepared = prepare(shuffled(stream, seed), self.embedding)
            for after in (10, 50, 100):
                run = self._prepare_run(prepared, 0.90, 0.05, seed, SHORT_ENGINE_S, False, after)
                out = run.run()
                if out.hits > after and out.openings:
                    bound = violations_before_opening(settings, settings.limit(after)) + LABEL_LAG
                    first_opening = run.violations_at_openings[0]
                    rows.append({"after": after, "violations_at_opening": first_opening, "bound": bound})
        print(f"\nplanted drift, {stream.name}: {rows}")
        return rows

    def _prepare_run(
        self,
        prepared: Prepared,
        fidelity: float,
        alpha: float,
        seed: int,
        engine_s: float,
        is_gated: bool,
        drift_after: int | None = None,
    ) -> Run:
        policy = Policy.of("auto", fidelity, alpha, 0.05, 0.92, 0.88, 0.98)
        return Run(prepared, policy, Costs(engine_s), seed, is_gated, self.neighbours, drift_after, self.kind)

    def _run(
        self, prepared: Prepared, fidelity: float, alpha: float, seed: int, engine_s: float, is_gated: bool
    ) -> Outcome:
        out = self._prepare_run(prepared, fidelity, alpha, seed, engine_s, is_gated).run()
        above = out.hits > 0 and 1 - binomial_cdf(out.violations - 1, out.hits, alpha) < 0.05
        self.runs.append(
            {
                "stream": prepared.name,
                "fidelity": fidelity,
                "alpha": alpha,
                "seed": seed,
                "engine_ms": engine_s * 1e3,
                "is_gated": is_gated,
                "requests": out.requests,
                "lookups": out.lookups,
                "hits": out.hits,
                "violations": out.violations,
                "openings": out.openings,
                "net_ms": out.net_ms,
                "first_hit_labels": out.first_hit_labels,
                "first_hit_request": out.first_hit_request,
                "hit_share_after_first": out.hit_share_after_first,
                "significantly_above": bool(above),
            }
        )
        return out


def _levels(z: Float32Array, good: np.ndarray[tuple[int], np.dtype[np.bool_]], fidelity: float) -> list[object]:
    """For each level of the certificate: share of requests, violations, and after how many requests to expect proof.

    A test's capital grows by KL(violations, alpha) a label at best (Kelly's rate), and has to reach levels / beta.
    """
    settings = CertifierSettings(fidelity=fidelity)
    wanted = math.log(len(settings.levels()) / (settings.beta * (1 - ROUND_SHARE)))
    rows: list[object] = []
    for level in settings.levels():
        clear = z >= level
        share, q = float(clear.mean()), float((~good[clear]).mean()) if clear.any() else 1.0
        rate = _divergence(q, settings.alpha) if q < settings.alpha else 0.0
        needed = round(wanted / rate / share) if rate * share > 0 else None
        rows.append({"level": level, "share": round(share, 3), "violations": round(q, 3), "requests_to_proof": needed})
    return rows


def _divergence(q: float, alpha: float) -> float:
    """Kullback-Leibler divergence of two coins."""
    first = q * math.log(q / alpha) if q > 0 else 0.0
    return first + (1 - q) * math.log((1 - q) / (1 - alpha))


def _share_below(similarities: list[float], fidelity: float) -> float:
    return sum(one < fidelity for one in similarities) / max(1, len(similarities))


def _oracle(prepared: Prepared, first: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Each text's largest true cosine with any earlier one."""
    vectors, parts = prepared.vectors, []
    for start in range(first, len(vectors), 1024):
        end = min(len(vectors), start + 1024)
        near = vectors[start:end] @ vectors[:end].T
        near[np.arange(end)[None, :] >= np.arange(start, end)[:, None]] = -2
        parts.append(near.max(axis=1))
    return np.concatenate(parts)


def _summary(outs: list[Outcome]) -> str:
    hits, violations = sum(out.hits for out in outs), sum(out.violations for out in outs)
    served = [out for out in outs if out.hits]
    share = violations / hits if hits else 0.0
    high = upper_bound(violations, hits, 0.025) if hits else 1.0
    low = 1 - upper_bound(hits - violations, hits, 0.025) if hits else 0.0
    labels = sorted(out.first_hit_labels for out in outs if out.first_hit_labels is not None)
    after_first = float(np.mean([out.hit_share_after_first for out in served])) if served else 0.0
    return (
        f"runs that served {len(served)}/{len(outs)}, served {hits / sum(out.requests for out in outs):.2%} "
        f"(after the first hit {after_first:.1%}), violations {share:.2%} [{low:.2%}, {high:.2%}], "
        f"labels to the first hit {labels[len(labels) // 2] if labels else '-'}, "
        f"breaker openings {sum(o.openings for o in outs)}, "
        f"net {np.mean([out.net_ms for out in outs]):+.3f} ms (worst {min(out.net_ms for out in outs):+.3f}, "
        f"after the first hit {np.mean([o.net_ms_after_first_hit for o in served]) if served else 0:+.3f}), "
        f"looked up {sum(o.lookups for o in outs) / sum(o.requests for o in outs):.1%}"
    )


if __name__ == "__main__":
    main()
