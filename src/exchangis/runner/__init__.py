"""Runners: one operating system process per task attempt, forked from a warmed-up parent."""
