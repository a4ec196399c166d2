"""Scripts that run in a peer's own environment, started by their path; they import nothing of ours."""
