"""Caches of embeddings, each behind one function: see worker.py. All but `dejavec_client` import nothing of ours."""
