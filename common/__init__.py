"""What more than one package uses, each thing once; every other package may import from here.

asgi.py            a request's body in, a reply out, with limits
content_coding.py  gzip and zstd: bodies expanded within a limit, replies compressed where it is worth it
json_text.py       bodies with byte order marks and halves of characters
http_server.py     uvicorn with limits; http_protocol.py, http_refusals.py, send_watch.py: one connection of it
disconnects.py     noticing clients that left
breaker.py         a circuit breaker
batch_queue.py     a bounded queue, worked off in batches
tasks.py           ending background tasks for certain
logs.py            the log of all processes
request_ids.py     the id that a request has in replies and logs
tracing.py         traces by OpenTelemetry; traced_app.py: a span for each request
latency_buckets.py the buckets of all latency histograms
prometheus_text.py metrics in Prometheus' text form, read
matryoshka.py      a vector's leading dimensions as a vector
credentials.py     keys, tokens, URLs and files that hold secrets: what is refused, and what may be shown
open_files.py      the limit on open files
reply_parsing.py   what clients read from a reply: error envelope, Retry-After, x-cache-items
gateway_url.py     a gateway's address, as people write it
texts/             the reader of text files, for every command
text_lines.py      lines of a file, and tables of them
findings.py        what a check of a set-up found
document_table.py  tables of documents that commands write
"""
