"""Arrivals and draws: seeded, of the stated law, in order, and the same again from a file."""

import gzip
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import orjson
import pytest

from loadtest.plan import Planner, Source
from loadtest.streams import NEW, PARAPHRASE, REPEAT, REVISED, Drawn, WorkloadError, long_chunks, zipf_shares
from loadtest.texts import TextsError, seconds_of
from loadtest.workload import Arrival, Batches, Drawing, Law, Pace, arrivals, due_times, recorded
from loadtest.workload_file import read, write

TEXTS = [f"text number {number}" for number in range(50)]
MANY = [f"text number {number}" for number in range(30_000)]


def drawn(law: Law, texts: list[str] = TEXTS, **parameters: float) -> Iterator[Drawn]:
    """Texts drawn with seed 1."""
    return Drawing(law, **parameters).texts(texts, 1)  # type: ignore[arg-type]


def texts_of(stream: Iterator[Drawn], count: int) -> list[str]:
    """The next texts."""
    return [one.text for one in islice(stream, count)]


def test_replay_keeps_the_order_and_starts_over() -> None:
    """Replayed texts come in the file's order, from the start again at its end, then as repeats."""
    found = list(islice(drawn(Law.REPLAY, ["a", "b", "c"]), 5))
    assert [(one.text, one.kind) for one in found] == [
        ("a", NEW), ("b", NEW), ("c", NEW), ("a", REPEAT), ("b", REPEAT)
    ]  # fmt: skip


@pytest.mark.parametrize("law", [law for law in Law if law is not Law.PARAPHRASES])
def test_same_seed_same_load(law: Law) -> None:
    """Two plans with the same seed are equal, arrival by arrival; drawn laws differ with another seed."""

    def plan(seed: int) -> list[Arrival]:
        stream = Drawing(law).texts(TEXTS, seed)
        return list(arrivals(stream, rate=20, seconds=1, batches=Batches.parse("1,2"), seed=seed))

    assert plan(7) == plan(7)
    assert plan(7) != plan(8)


def test_times_do_not_depend_on_texts_or_sizes() -> None:
    """Another law and other batches over the same seed keep the arrival times, so that runs can be compared."""
    one = [a.due_s for a in arrivals(drawn(Law.ZIPF), rate=50, seconds=2, seed=3)]
    mixed = Batches.parse("1:3,4:1")
    assert one == [a.due_s for a in arrivals(drawn(Law.REPLAY), rate=50, seconds=2, seed=3, batches=mixed)]


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.3])
def test_zipf_frequencies(exponent: float) -> None:
    """Over many draws each rank's share is close to 1 / rank ** exponent."""
    draws = 100_000
    counts = Counter(texts_of(drawn(Law.ZIPF, exponent=exponent), draws))
    seen = np.array([count / draws for _, count in counts.most_common()])
    assert np.abs(seen - zipf_shares(len(TEXTS), exponent)).max() < 0.006  # about four standard deviations


def test_zipf_shares_by_hand() -> None:
    """Three ranks with exponent 1 are as 6 : 3 : 2."""
    assert zipf_shares(3, 1.0) == pytest.approx([6 / 11, 3 / 11, 2 / 11])


def test_uniform_frequencies() -> None:
    """Uniform draws reach every text about equally often."""
    draws = 50_000
    counts = Counter(texts_of(drawn(Law.UNIFORM, exponent=2.0), draws))
    assert set(counts) == set(TEXTS)
    assert max(counts.values()) < 1.2 * draws / len(TEXTS)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.68, 0.95])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_repeat_share(share: float, exponent: float) -> None:
    """The given share of texts repeats an earlier one, some of them far more often than others."""
    found = list(islice(drawn(Law.ZIPF, MANY, repeat_share=share, exponent=exponent), 20_000))
    repeats = [one for one in found if one.kind == REPEAT]
    assert len(repeats) / len(found) == pytest.approx(share, abs=0.015)
    if share > 0.5:
        counts = Counter(one.text for one in found).most_common()
        assert counts[0][1] > 20 * counts[len(counts) // 2][1]


def test_unique_texts_never_repeat_and_end_with_the_remedy() -> None:
    """Each text comes once; behind the last the message says what to do."""
    stream = drawn(Law.UNIQUE, [*TEXTS, TEXTS[0]])
    found = texts_of(stream, 50)
    assert sorted(found) == sorted(TEXTS)
    with pytest.raises(WorkloadError, match=r"50 distinct texts are used up: give --texts a larger file"):
        next(stream)


def test_paraphrases_follow_at_their_distance() -> None:
    """The second text of a pair comes so many texts behind the first, and all of both come."""
    pairs = [(f"question {n}", f"the same asked {n}") for n in range(40)]
    stream = Drawing(Law.PARAPHRASES, distance=10).texts((), 1, pairs=pairs)
    found = list(islice(stream, 80))
    places = {one.text: place for place, one in enumerate(found)}
    gaps = [places[second] - places[first] for first, second in pairs]
    assert {one.text: one.kind for one in found} == {
        **{first: NEW for first, _ in pairs},
        **{second: PARAPHRASE for _, second in pairs},
    }
    assert min(gaps) == 10
    assert max(gaps) <= 20
    with pytest.raises(WorkloadError, match="40 pairs are used up"):
        next(stream)


def test_revisions_edit_a_share_and_keep_the_edits() -> None:
    """The first release is new; in each later one a share is edited by one word, and the rest is as before."""
    texts = [f"this is text {n} of many in the first release" for n in range(1000)]
    found = list(islice(Drawing(Law.REVISIONS, edit_share=0.2).texts(texts, 1), 3000))
    releases = [found[start : start + 1000] for start in (0, 1000, 2000)]
    assert Counter(one.kind for one in releases[0]) == {NEW: 1000}
    for before, after in pairwise(releases):
        kinds = Counter(one.kind for one in after)
        assert kinds[REVISED] == pytest.approx(200, abs=50)
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a.text != b.text]
        assert sum(b.kind == REVISED for _, b in changed) == kinds[REVISED]
        for a, b in changed:
            assert abs(len(a.text.split()) - len(b.text.split())) <= 1


def test_bulk_joins_to_long_chunks() -> None:
    """Consecutive texts are joined until they are long enough; none is lost."""
    chunks = long_chunks(TEXTS, 100)
    assert all(len(chunk) >= 100 for chunk in chunks[:-1])
    assert " ".join(chunks) == " ".join(TEXTS)


def test_constant_pace() -> None:
    """Constant arrivals are evenly spaced and all before the end."""
    assert list(due_times(4, 1.0, Pace.CONSTANT)) == [0.0, 0.25, 0.5, 0.75]


def test_poisson_pace() -> None:
    """Poisson gaps have the mean and the spread of an exponential law."""
    times = np.array(list(due_times(100, 200.0, Pace.POISSON, seed=3)))
    gaps = np.diff(times)
    assert times[0] >= 0
    assert times[-1] < 200.0
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() == pytest.approx(0.01, rel=0.05)


def test_recorded_times_are_kept_or_scaled() -> None:
    """The first request is due at once, the others at their distance to it, divided by the speed."""
    found = list(recorded([100.0, 101.0, 104.0, 109.0], ["a", "b", "a", "c"], speed=2.0, seconds=4.0))
    assert [(a.due_s, a.texts, a.kinds) for a in found] == [
        (0.0, ["a"], [NEW]), (0.5, ["b"], [NEW]), (2.0, ["a"], [REPEAT])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1732586400.5", 1732586400.5), ("1732586400500", 1732586400.5), ("2024-11-26T02:00:00Z", 1732586400.0)],
)
def test_times_of_logs(value: str, seconds: float) -> None:
    """Seconds, milliseconds and ISO 8601 are the same moment."""
    assert seconds_of(value, Path("log.csv"), "time") == seconds


def test_batches_take_consecutive_draws() -> None:
    """A request of several texts takes the next ones in order."""
    planned = arrivals(
        drawn(Law.REPLAY, ["a", "b", "c"]), rate=2, seconds=1, batches=Batches.parse("2"), pace=Pace.CONSTANT
    )
    assert [arrival.texts for arrival in planned] == [["a", "b"], ["c", "a"]]


def test_mixed_sizes_have_their_weights() -> None:
    """Sizes come as often as their weights say."""
    sizes = Counter(islice(Batches.parse("1:90,32:10").draw(1), 20_000))
    assert sizes[32] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert str(Batches.parse("1:90,32:10")) == "1 (90%), 32 (10%)"


@pytest.mark.parametrize("text", ["", "0", "2049", "a", "1:0", "1:-1", "1:nan", "8:inf", "1,,2"])
def test_unusable_sizes_are_refused(text: str) -> None:
    """No size, one out of bounds, and weights that are none."""
    with pytest.raises(ValueError, match=r"size|weights|not a"):
        Batches.parse(text)


# --- files


def planner(tmp_path: Path, content: str, name: str = "texts.txt", **more: object) -> Planner:
    """A planner over a file."""
    (tmp_path / name).write_text(content)
    source = Source(tmp_path / name, field=str(more.pop("field", "text")))
    law, pace = more.pop("law", Law.REPLAY), more.pop("pace", Pace.POISSON)
    return Planner(source, Drawing(law), Batches(), pace, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["workload.jsonl", "workload.jsonl.gz"])
def test_a_written_workload_is_sent_again_exactly(tmp_path: Path, name: str) -> None:
    """Times, texts, kinds and the hash come back, and the same seed writes the same bytes."""
    contents = []
    for _ in range(2):
        plan = planner(tmp_path, "\n".join(TEXTS), law=Law.ZIPF).plan(50, 2)
        assert plan.workload is not None
        write(tmp_path / name, plan.workload)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert read(tmp_path / name) == plan.workload


def test_a_changed_workload_is_refused(tmp_path: Path) -> None:
    """A file whose content does not have its hash is not what was sent before."""
    file = tmp_path / "w.jsonl"
    plan = planner(tmp_path, "\n".join(TEXTS)).plan(20, 1)
    assert plan.workload is not None
    write(file, plan.workload)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(WorkloadError, match="was changed after it was written"):
        read(file)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not a workload"),
        (b"{}\n", "not a workload that --write-workload"),
        (b"\xff\n", "not a workload file"),
        (b'{"format":"dejavec workload","version":1}\n{"due_s":-1,"texts":["a"],"kinds":[]}\n', "line 2"),
        (b'{"format":"dejavec workload","version":1}\n{"due_s":NaN,"texts":["a"],"kinds":[]}\n', "not a workload file"),
        (b'{"format":"dejavec workload","version":1}\n[1]\n', "line 2"),
        (b'{"format":"dejavec workload","version":1}\n{"due_s":1,"texts":["a"],"kinds":["x"]}\n', "line 2"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_other_files_are_refused(tmp_path: Path, content: bytes, complaint: str, packed: bool) -> None:
    """What is no workload is one message that names the line."""
    file = tmp_path / ("w.jsonl.gz" if packed else "w.jsonl")
    file.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(WorkloadError, match=complaint):
        read(file)


def test_consecutive_plans_go_on_in_one_stream(tmp_path: Path) -> None:
    """The steps of a search send texts that follow each other, so that none starts with the last one's cache."""
    steps = planner(tmp_path, "\n".join(TEXTS), law=Law.UNIQUE)
    sent = [text for _ in range(2) for arrival in steps.plan(10, 2).arrivals for text in arrival.texts]
    assert len(set(sent)) == len(sent)


def test_a_recorded_log(tmp_path: Path) -> None:
    """A log with times is replayed at them."""
    rows = [{"text": t, "time": at} for t, at in (("a", 1000), ("b", "2.5e3"), ("c", 4000))]
    content = "".join(orjson.dumps(row).decode() + "\n" for row in rows)
    plan = planner(tmp_path, content, "log.jsonl", pace=Pace.RECORDED).plan(1, 10_000, speed=500)
    assert [(a.due_s, a.texts[0]) for a in plan.arrivals] == [(0.0, "a"), (3.0, "b"), (6.0, "c")]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"text":"a"}\n{"text":"b"}\n', "line 1: no 'time'"),
        ('{"text":"a","time":1}\n', 'write it as text, "1"'),
        ('{"text":"a","time":9}\n{"text":"b","time":8}\n', "do not rise"),
        ('{"text":"a","time":"noon"}\n', "is no time"),
    ],
)
def test_unusable_times_are_refused(tmp_path: Path, content: str, complaint: str) -> None:
    """Without times that rise nothing is sent."""
    with pytest.raises(TextsError, match=complaint):
        planner(tmp_path, content, "log.jsonl", pace=Pace.RECORDED)


def test_plain_text_has_no_times_and_no_pairs(tmp_path: Path) -> None:
    """That is said with the formats that have them."""
    for wanted in ({"pace": Pace.RECORDED}, {"law": Law.PARAPHRASES}):
        with pytest.raises(TextsError, match=r"is taken for one text a line, with no '(time|paraphrase)'"):
            planner(tmp_path, "a\nb\n", **wanted)


def test_the_packages_texts_are_not_taken_for_a_file_of_the_users() -> None:
    """Their file's name is not shown: one of that name may lie where the command runs."""
    assert Planner(Source(), Drawing(), Batches.parse("1"), Pace.CONSTANT, 0).plan(1, 5).described["texts"] == (
        "the package's own"
    )


def test_pairs_need_both_fields(tmp_path: Path) -> None:
    """A file without the other field has no pairs."""
    with pytest.raises(TextsError, match="no 'paraphrase'"):
        planner(tmp_path, '{"text":"a"}\n', "pairs.jsonl", law=Law.PARAPHRASES)
