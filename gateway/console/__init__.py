"""The operator's page: its files, and the figures that it asks for.

page.py       the files of `assets/` as they are sent: types, ETags, the content security policy
figures.py    a text of Prometheus metrics, and sums, shares and histograms out of it
engines.py    what each engine reports of itself
overview.py   all of it together, for `GET /admin/overview`

The routes are in `gateway/routes/console.py`. The page's own code is in `assets/`; `console.js` is where it begins.
"""
