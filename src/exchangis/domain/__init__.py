"""The rules of job execution, free of any store, network or engine."""
