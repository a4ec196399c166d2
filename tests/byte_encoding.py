"""A real `tiktoken.Encoding` that needs no download: one token for each byte."""

import tiktoken

NAME = "cl100k_base"  # the name clients ask for; tests put this encoding under it


def byte_encoding() -> tiktoken.Encoding:
    """Token ids 0 to 255 are the bytes of the UTF-8 text; 256 is a special token."""
    return tiktoken.Encoding(
        name=NAME,
        pat_str=r"\s+|\S+",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={"<|endoftext|>": 256},
    )
