"""The one training loop and the one evaluation loop: they know ``Task`` and nothing about any one task."""
