"""``python -m openmplug``: the same as the ``openmplug`` command."""

from __future__ import annotations

from openmplug.cli.app import main

if __name__ == "__main__":
    main()
