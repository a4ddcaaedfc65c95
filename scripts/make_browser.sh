#!/usr/bin/env bash
# Install what the browser tests need beside the development tools: Gradio and Playwright into .venv, a Chromium from the system.
# Playwright's own download of a browser is not used: Debian's is the one people have, and it comes from where everything else does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}

say() { printf 'browser: %s\n' "$*" >&2; }

have() { "$venv/bin/python" -c 'import importlib.metadata as m, sys; [m.version(name) for name in sys.argv[1:]]' "$@" 2>/dev/null; }

if ! have gradio playwright; then
  say "gradio and playwright, under constraints.txt"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt gradio playwright ||
    { say "they could not be installed; check the network or pip's settings"; exit 5; }
fi

found=
for name in "${OPENMPLUG_CHROMIUM:-chromium}" chromium-browser google-chrome; do
  if command -v "$name" >/dev/null 2>&1; then found=$name; break; fi
done
if [ -z "$found" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "chromium, by apt-get"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null ||
      { say "apt-get could not install chromium"; exit 5; }
  else
    say "no Chromium here; install it (Debian: sudo apt-get install chromium), or name its program in OPENMPLUG_CHROMIUM"
    exit 5
  fi
fi
