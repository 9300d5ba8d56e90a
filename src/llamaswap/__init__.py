"""llamaswap: one address in front of local inference servers, the right one started for each request."""

__version__ = "0.1.0"
