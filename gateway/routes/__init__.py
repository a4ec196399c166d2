"""The gateway's HTTP routes: request bodies in, replies out.

openai.py            /v1/embeddings, /v1/models
embed.py             /embed
status.py            /health, /ready, /info, /metrics
admin.py             /admin: statistics, explaining a look-up, purging
thresholds.py        /admin: policies, changing them while running, what labels show
embedding_call.py    what the embedding routes share: headers in, the service call, headers out
schemas.py           bodies checked by pydantic, replies assembled as bytes
output_types.py      vectors as int8, uint8, binary and ubinary
dimensions.py        fewer dimensions, and whether the model was trained for them
token_input.py       input given as token ids
openapi_document.py  adds the embedding routes to the OpenAPI document

`gateway/app.py` includes them in the application.
"""
