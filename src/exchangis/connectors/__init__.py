"""Connectors: what reads and writes one kind of system, and nothing else."""
