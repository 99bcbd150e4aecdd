"""The store: all state of all servers, in SQLite, PostgreSQL or MySQL. Its SQL lives here alone."""
