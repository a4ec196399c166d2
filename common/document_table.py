"""Tables of documents that are written from the code: `make docs` replaces what stands between two markers."""

import re

import click


def replace_table(document: str, name: str, table: str) -> str:
    """A document with this table between `<!-- name -->` and `<!-- /name -->`.

    Raises click.ClickException where it does not have these markers, each on a line of its own, once.
    """
    between = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- /{name} -->)", re.DOTALL)
    written, count = between.subn(lambda _: table, document)
    if count != 1:
        raise click.ClickException(f"the file lacks the markers <!-- {name} --> and <!-- /{name} -->")
    return written
