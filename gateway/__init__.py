"""The gateway process: HTTP in front, the cache tiers in between, the engine behind.

app.py             the application: settings, lifespan, routes        cli.py          `dejavec gateway`
worker.py          what each worker process loads first               settings.py     every setting of the process
routing.py         from a path to its route; paths.py: by what names  browsers.py     what a page in a browser may not
routes/            HTTP shapes in and out                             errors.py       what can go wrong, with its status
http.py            requests and replies of the embedding routes; bodies.py, admission.py: what they may hold
service.py         the request story of one model: look up, compute, merge, write back
embed_request.py   what it is asked and answers                       names.py        which model and prompt is meant
models.py          the models in service                              state.py        all that a running gateway holds
engines/           a model's engines: readiness, choice, vectors      singleflight.py one computation for equal keys
semantic_tiers.py  the semantic tier of one model                     verifier.py     recomputes sampled hits
policies.py        each namespace's policy now                        live_values.py  what operators changed, undoing
tenants.py         API keys, namespaces, limits                       presented_key.py where a request holds its key
limits.py          limits shared through Redis; buckets.py: without   usage.py        what keys have used
auth_failures.py   wrong keys, by address                             kept_replies.py replies kept with a text in L0
redis_links.py     the ways to Redis; redis_watch.py: a look at it    work_pool.py    threads for long work
settings_file.py   keys, models and policies of a file that changes   background.py   loops that are kept running
token_encodings.py tiktoken's encodings without a network
metrics.py         Prometheus metrics; tallies.py, stage_times.py, gauges.py: how they are set; metrics_storage.py
spans.py           what spans are called and hold
console/           the operator's page                                docs_page/      `/docs`
client/            the library and commands that call a gateway       simulate/       `dejavec cache simulate`
"""
