"""Models in other people's hands: the HTTP service and the page in the browser, over :mod:`openmplug.inference`."""
