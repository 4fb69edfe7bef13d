"""One script per finding: thin, on top of the core and the defenses."""
