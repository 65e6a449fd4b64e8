"""What every part of the configuration is checked with."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ctr.errors import UserError


class ConfigError(UserError):
    """A configuration that cannot run; names the key and says what to set instead."""


def require(condition: bool, key: str, given: object, accepted: str) -> None:
    """Raise ConfigError, naming key and value, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key}={given}: {accepted}")


def require_one_of(key: str, given: str, accepted: tuple[str, ...]) -> None:
    """Raise ConfigError unless the value is one of those accepted."""
    require(given in accepted, key, given, f"set one of {', '.join(accepted)}")


def leaves(config: Any, prefix: str) -> list[tuple[str, Any]]:
    """Dotted key and value of every entry of a configuration."""
    found = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            found += leaves(value, f"{prefix}{item.name}.")
        else:
            found.append((prefix + item.name, value))
    return found


def require_usable(key: str, value: object) -> None:
    """Raise ConfigError on what passes a comparison such as `lr > 0` and fails a run later."""
    if isinstance(value, dict):
        for name, entry in value.items():
            require_usable(f"{key}.{name}", entry)
        return
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, float):
            require(math.isfinite(entry), key, value, "set a finite number")
        elif isinstance(entry, list | dict):
            require(False, key, value, "set a list of single values")
        elif isinstance(entry, int):
            require(-(2**63) <= entry < 2**63, key, value, "set a number of 64 bits")
