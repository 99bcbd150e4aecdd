"""Engines: what carries out one task. They know nothing of HTTP, the store or the scheduler."""
