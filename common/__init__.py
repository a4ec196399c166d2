"""What more than one package uses, each thing once; every other package may import from here.

asgi.py            a request's body in, a reply out, with limits
content_coding.py  gzip and zstd: bodies expanded within a limit, replies compressed where it is worth it
json_text.py       bodies with byte order marks and halves of characters
disconnects.py     noticing clients that left
breaker.py         a circuit breaker
batch_queue.py     a bounded queue, worked off in batches
tasks.py           ending background tasks for certain
logs.py            the log format of all processes
reply_parsing.py   what clients read from a reply: error envelope, Retry-After, x-cache-items
text_lines.py      texts of a file: plain lines, JSON Lines, TSV
"""
