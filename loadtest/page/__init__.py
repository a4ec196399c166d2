"""Reports as single HTML files with plots: no other host, no other file, light and dark, phone and desktop.

document.py   the page: head, policy, style, scripts, tables, tiles
charts.py     plots as options of Apache ECharts
run.py        one load test
compare.py    two load tests on one page
rate.py       a search for the highest rate
page.css, page.js, echarts.common.min.js (docs/decisions/echarts-in-the-page.md)
"""
