#!/usr/bin/env bash
# The steps of the image: the Dockerfile names them, `python -m tests.doors.image` runs them without
# a daemon. Usage: .docker/steps.sh STEP, in the suite's folder.
set -euo pipefail

# Only to install, and only in the first stage.
compiler() {
  packages g++ cmake ninja-build
}

# OpenMP's library, which the compiler's package brings along elsewhere; and somebody to run as.
runtime() {
  packages libgomp1
  useradd --create-home --uid 1000 learner
  chown learner: .
}

packages() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
  rm -rf /var/lib/apt/lists/*
}

# The environment as everywhere; then off with what only tests need, a quarter of it.
environment() {
  python3 -m helpers lab --check
  .venv/bin/python -m pip uninstall -q -y hypothesis mypy playwright ruff
}

# In the last stage, without a compiler and as the user: a model is loaded and asked.
prove() {
  python3 -m helpers doctor
}

# Port 8888 is that of the Dockerfile's last line. Jupyter tells its version without a token.
health() {
  python3 -c 'import urllib.request as r; r.urlopen("http://127.0.0.1:8888/api", timeout=5)'
}

case "${1-}" in
  compiler | runtime | environment | prove | health) "$1" ;;
  *) echo "usage: .docker/steps.sh compiler|runtime|environment|prove|health" >&2 && exit 2 ;;
esac
