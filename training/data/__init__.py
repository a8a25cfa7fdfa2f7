"""Data: published data sets by name, and readers for the user's own files. Imports no torch."""
