"""The command line: `exchangis`."""
