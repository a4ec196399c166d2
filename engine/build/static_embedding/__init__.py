"""Making the static embedding: a table of token vectors distilled from the model, for the semantic tier.

step.py    the form asked for, with its rank correlation; what the builder calls
quick.py   from the vocabulary alone, in well under a minute; the file's format
fitted.py  trained on a corpus, in minutes
"""
