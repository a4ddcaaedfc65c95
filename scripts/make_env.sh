#!/usr/bin/env bash
# Make .venv (or complete the one that is there) and install openmplug for development under constraints.txt.
# torch comes first, alone: its CPU build where no NVIDIA GPU is found. PYTHON=python3.12 chooses the interpreter;
# pip's own settings (pip.conf, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS) are honoured.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}
torch_version=$(sed -n 's/^torch==//p' constraints.txt)
log=$(mktemp "${TMPDIR:-/tmp}/openmplug-setup.XXXXXX")

say() { printf 'setup: %s\n' "$*"; }

fail() {
  say "$1"
  if [ -s "$log" ]; then
    tail -n 15 "$log"
    say "whole log: $log"
  fi
  exit 5
} >&2

pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >>"$log" 2>&1; }

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

has_torch() {
  "$venv/bin/python" -c 'import sys; from importlib.metadata import version; sys.exit(version("torch").split("+")[0] != sys.argv[1])' \
    "$torch_version" >/dev/null 2>&1
}

# The CPU build has the local version "+cpu" wherever an index or folder that pip is pointed at offers it. Elsewhere uv knows
# where it lies. Where neither finds it, the default build works too; on Linux it is only much larger.
install_cpu_torch() {
  if [ "$(uname -s)" = Linux ]; then
    pip "torch==$torch_version+cpu" && return
    if pip uv && "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --torch-backend cpu "torch==$torch_version" >>"$log" 2>&1; then
      return
    fi
    say "no CPU build of torch found; taking the default build, which may bring several GB of GPU libraries"
  fi
  pip "torch==$torch_version"
}

install_torch() {
  pip 'setuptools>=77' || return 1
  if has_torch; then return; fi
  if has_gpu; then
    say "torch $torch_version (an NVIDIA GPU is present)"
    pip "torch==$torch_version"
  else
    say "torch $torch_version for the CPU (no NVIDIA GPU found)"
    install_cpu_torch
  fi
}

if [ -x "$venv/bin/python" ] && usable "$venv/bin/python"; then
  say "using $venv ($("$venv/bin/python" --version))"
  install_torch || fail "torch $torch_version could not be installed into $venv; check the network or pip's settings, or remove $venv"
else
  done=
  for python in ${PYTHON:-python3 python3.12 python3.11 python3.13 python3.10}; do
    usable "$python" || continue
    say "$venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" >>"$log" 2>&1 || continue
    # torch wheels exist for some versions of Python only: where there is none, the next interpreter is tried.
    if install_torch; then
      done=yes
      break
    fi
    say "torch $torch_version could not be installed for $("$python" --version); trying the next interpreter"
  done
  if [ -z "$done" ]; then
    rm -rf "$venv"
    fail "no Python >= 3.10 that has venv and a torch $torch_version; install one (Debian: python3-venv) or name it: make setup PYTHON=python3.12"
  fi
fi

say "openmplug and its tools, under constraints.txt"
pip --no-build-isolation --constraint constraints.txt --editable '.[dev]' || fail "the packages could not be installed"
rm -f "$log"
say "done: $venv/bin/openmplug"
