"""`dejavec ingest`: one file through a gateway, or with `--engine ray` files of any size on many machines.

cli.py            the options, and which of the two they ask for
run.py            an ingestion from its plan to its last part
job.py            what every worker is told
sources.py        files on local paths and fsspec URLs, whole writes
cutting.py        files to parts, parts to records
plan.py           the plan of parts in the output folder, and what a later run may add to it
embed_part.py     one part: read, embed, write, record
through_gateway.py, in_process.py    the two ways to vectors; vectors.py: what both give
part_files.py     a part's vectors as Parquet or JSON Lines
over_ray.py       the only module that imports Ray
progress.py       what is shown

`gateway.client.cli` has the ingestion of one file.
"""
