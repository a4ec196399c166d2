"""The engines of one model, as one: which of them serve, which gets a call, what is sent, and what is tried again.

engine_set.py   all of them behind one interface    connection.py    one engine over HTTP: identity, readiness, calls
balance.py      which engine gets the next call     retries.py       when a call is sent to one engine more
attempts.py     one call until an engine answers    fingerprints.py  whose vectors are served
joining.py      small calls that travel together    addresses.py     engines found by a DNS name
"""
