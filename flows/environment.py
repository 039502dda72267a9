"""The environment of a run on one's own machine: quiet, offline, on loopback. What the user has set, stays."""

import os

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the progress bar and one-line errors speak instead
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # the first start migrates a database
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a single node listens on loopback only
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


def set_environment() -> None:
    """Call before prefect, ray or transformers are imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
