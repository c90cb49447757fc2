"""One file an executable: parameters, worker, topics."""
