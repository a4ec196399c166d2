"""Texts of files, for every command that reads them: one reader, and one way to treat what cannot be used.

    with TextFile(path, form_of(path)) as file:
        for row in file.rows():                 # a Record, or a BadLine with its fault and reason
            ...
    taken = read_all([path], form_of, limit=1000)   # where all texts are wanted at once

form.py        formats, and which one a file has
stream.py      a file, compressed or not, in UTF-8 or UTF-16, as a stream of UTF-8
rows.py        JSON Lines, plain lines, CSV and TSV to rows
parquet.py     a Parquet file as JSON Lines
text_file.py   rows with the position to go on from; all texts of some files
tally.py       what was read, used and skipped, and the file that lists the skipped lines
options.py     the options that commands share

A line that cannot be used is passed over and named with its number and reason, never with its text. A file that cannot
be used is a SourceError. Memory: one line, at most `max_line_bytes` of it, whatever the file holds.
"""

from common.texts.form import MAX_LINE_BYTES, STANDARD_INPUT, Format, TextForm, form_of
from common.texts.rows import BadLine, Fault, Record
from common.texts.stream import SourceError
from common.texts.tally import BadLines, Tally
from common.texts.text_file import InputChanged, Position, TextFile, Texts, read_all

__all__ = [
    "MAX_LINE_BYTES",
    "STANDARD_INPUT",
    "BadLine",
    "BadLines",
    "Fault",
    "Format",
    "InputChanged",
    "Position",
    "Record",
    "SourceError",
    "Tally",
    "TextFile",
    "TextForm",
    "Texts",
    "form_of",
    "read_all",
]
