"""The configuration: YAML text to a frozen `Config`, with every problem named by file, line and key."""

from llamaswap.config.load import load, loads
from llamaswap.config.settings import Config, Group, ModelConfig

__all__ = ["Config", "Group", "ModelConfig", "load", "loads"]
