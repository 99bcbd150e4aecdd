"""Reading logs: paged, filtered and followed, as the contract's "Logs" says."""
