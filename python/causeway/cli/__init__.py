"""The command line: an HTTP client of the API with a terminal around it."""
