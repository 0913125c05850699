"""One typed tree of settings: defaults < manifest < TAKEOFF_* variables < flags.

values    the forms in which a value may be written, as types
fields    ReaderSettings and Settings: every option, once, with its bounds and its trade-off
names     Titan Takeoff's names for them, and its names that mean nothing here
entries   keys and values that somebody wrote, checked against the fields
document  a YAML file as nodes that know their line
manifest  the file: its shape, and its entries
loading   the layers put together
"""

from takeoff.settings.fields import DEFAULT_PORT, ReaderSettings, Settings
from takeoff.settings.loading import load_reader_settings, load_settings
from takeoff.settings.names import ENV_PREFIX

__all__ = [
    "DEFAULT_PORT",
    "ENV_PREFIX",
    "ReaderSettings",
    "Settings",
    "load_reader_settings",
    "load_settings",
]
