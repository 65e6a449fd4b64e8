"""What configuration a command line of ctr/train.py would have, for tools that do not train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ctr.config import ConfigError, RunConfig, parse_config

CONF = Path(__file__).resolve().parent.parent / "conf"


def compose_run(overrides: Sequence[str]) -> RunConfig:
    """Compose and check a configuration.

    Args:
        overrides: as on the command line of ctr/train.py.

    Raises:
        ConfigError: a key or a value that cannot be.
    """
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return parse_config(compose("train", list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from None
