"""The scheduler: makes tasks of executions, runs them in processes, settles how they end."""
