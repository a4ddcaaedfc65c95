"""``python -m openmplug``: the same as the ``openmplug`` command."""

from __future__ import annotations

import os

# Under torchrun torch's C++ code warns from every process of what is meant to be so. It reads this once, when it is imported.
if "LOCAL_RANK" in os.environ:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from openmplug.cli.app import main

if __name__ == "__main__":
    main()
