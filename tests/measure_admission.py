"""Whether a text should be stored when it is first computed, or when it is computed again: hits, writes and room.

`python -m tests.measure_admission FILE [--field NAME]` replays a log's texts, one after the other, against a cache of
so many entries (least recently used out first) under both rules. "Second sight" is given a perfect memory of what was
seen, which a real filter comes near to.
"""

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import click

from loadtest.texts import read_lines

SHARES = (0.02, 0.05, 0.1, 0.25, 1.0)


def replay(texts: Iterable[str], room: int, on_second_sight: bool) -> tuple[int, int, int]:
    """Hits, writes, and the entries held in the end."""
    held: OrderedDict[str, None] = OrderedDict()
    seen: set[str] = set()
    hits = writes = 0
    for text in texts:
        if text in held:
            held.move_to_end(text)
            hits += 1
        elif on_second_sight and text not in seen:
            seen.add(text)
        else:
            writes += 1
            held[text] = None
            if len(held) > room:
                held.popitem(last=False)
    return hits, writes, len(held)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--field", default="query", show_default=True, help="JSONL field or TSV column of the text.")
def main(file: Path, field: str) -> None:
    """Print a row for each size and rule."""
    texts = [" ".join(text.lower().split()) for text in read_lines(file, field=field).texts]
    distinct = len(set(texts))
    print(f"{len(texts):,} texts, {distinct:,} distinct")
    for share in SHARES:
        for on_second_sight in (False, True):
            room = max(1, int(share * distinct))
            hits, writes, held = replay(texts, room, on_second_sight)
            rule = "second sight" if on_second_sight else "always      "
            print(
                f"room for {room:7,}: {rule} hits {hits / len(texts):6.2%}, writes {writes / len(texts):6.2%}, "
                f"holds {held:7,}, hits an entry {hits / held:.2f}"
            )


if __name__ == "__main__":
    main()
