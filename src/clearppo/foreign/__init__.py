"""What other programs call the same things: their settings read from a file, and turned into a configuration of ours.

import_settings(FILE)  ->  Imported     what became of every setting, and YAML that `load_config` accepts. No torch.

Files are read and never run: Python by its syntax tree, shell by its words.
"""

from clearppo.foreign.found import Finding, Imported
from clearppo.foreign.imports import STAND_IN, import_settings

__all__ = ["STAND_IN", "Finding", "Imported", "import_settings"]
