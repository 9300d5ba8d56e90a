"""The configuration: YAML text to a frozen `Config`, with every problem named by file, line and key."""

from llamaswap.config.load import load, load_sources, loads
from llamaswap.config.settings import Config, Group, ModelConfig
from llamaswap.config.sources import Place, Source

__all__ = ["Config", "Group", "ModelConfig", "Place", "Source", "load", "load_sources", "loads"]
