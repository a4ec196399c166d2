"""The gateway's HTTP routes: request bodies in, replies out.

client_routes.py     the table of clients' POST routes, other prefixes and models in paths included
openai.py            /v1/embeddings, /v1/models; Azure's
embed.py             /embed, and what is the same behind other paths
tei.py               /tokenize, /decode
ollama.py            /api/...
status.py            /, /health, /ready, /info, /metrics
admin.py             /admin: statistics, explaining a look-up, purging
thresholds.py        /admin: policies, changing them while running, what labels show
usage.py             /v1/usage, /admin/usage
console.py           /console: the operator's page, and the figures that it polls
embedding_call.py    what the embedding routes share: headers in, the service call, headers out
fields.py            what a body's fields mean by all their names; which are ignored, which refused
error_replies.py     404 and 405 with what there is instead
schemas.py           bodies checked by pydantic, replies assembled as bytes
output_types.py      vectors as int8, uint8, binary and ubinary
dimensions.py        fewer dimensions, and whether the model was trained for them
token_input.py       input given as token ids
openapi_document.py  adds the embedding routes to the OpenAPI document

`gateway/app.py` includes them in the application.
"""
