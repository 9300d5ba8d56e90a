"""Which build this is; build_zipapp.sh puts the facts in the copy that llamaswap.pyz carries."""

COMMIT = "unknown"
BUILD_DATE = "unknown"
"""Of the commit, in UTC, so that the same commit builds the same file."""
