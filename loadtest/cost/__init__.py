"""`dejavec cost`: what embeddings cost by API and on own machines, and what the caches save; with formulas.

prices.py, prices.toml   prices with their dates, and the user's own
inputs.py                what is known, and what was not given
bill.py                  figures from inputs; what cannot be said, and which input is missing
live.py                  what a running gateway has really saved, from its counters
page.py, cli.py          how it is shown
"""
