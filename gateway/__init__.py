"""The gateway process: HTTP in front, the cache tiers in between, the engine behind.

app.py             the application: settings, lifespan, routes        cli.py       `dejavec gateway`
routes/            HTTP shapes in and out                             settings.py  every setting of the process
http.py            admission, bodies, deadlines and replies of the embedding routes
errors.py          what can go wrong, with its HTTP status            metrics.py   Prometheus metrics
service.py         the request story of one model: look up, compute, merge, write back
models.py          the models in service                              embed_request.py  what is asked of one
engines/           a model's engines: readiness, choice, vectors       singleflight.py  one computation for equal keys
semantic_tiers.py  the semantic tier of one model                     verifier.py      recomputes sampled hits
policies.py        each namespace's policy now                        tenants.py       API keys, namespaces, limits
settings_file.py   API keys and models of a file that changes         presented_key.py where a request holds its key
token_encodings.py tiktoken's encodings without a network
names.py           which model and prompt a request means             background.py    loops that are kept running
state.py           all that a running gateway holds
client/            the library and commands that call a gateway
"""
