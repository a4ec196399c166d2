"""Caches of embeddings, each behind the same two functions: see worker.py. All but `dejavec_client` import nothing of ours."""
