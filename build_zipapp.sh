#!/usr/bin/env bash
# Builds llamaswap.pyz, the whole program in one file: ./build_zipapp.sh [OUTPUT]
#
# Needs python3 (3.11 or newer, with venv) and what pip is configured to download from; works from
# any directory. Where npm is installed (with Node 20.19 or newer) the web UI is built in, without it the
# program says at /ui that it is not. The same commit gives the same file, byte for byte. What it needs
# for building it keeps under .cache/zipapp and ui/node_modules. Set PYTHON to build with another
# interpreter than python3.
set -euo pipefail

output=${1:-}
case $output in "" | /*) ;; *) output=$PWD/$output ;; esac
cd "$(dirname -- "${BASH_SOURCE[0]}")"

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
  echo "build_zipapp.sh: needs Python 3.11 or newer, but $python is" \
    "$("$python" --version 2>&1 || true); set PYTHON to a newer one" >&2
  exit 1
}

# A virtual environment with exactly the locked tools, made anew when the lock or the Python changes.
key=$("$python" -c 'import hashlib, sys
print(hashlib.sha256(open("requirements-build.lock", "rb").read() + sys.version.encode() + sys.base_prefix.encode()).hexdigest()[:16])')
venv=.cache/zipapp/venv-$key
if [ ! -e "$venv/complete" ]; then
  fresh=$venv.$$
  trap 'rm -rf -- "$fresh"' EXIT
  "$python" -m venv --clear "$fresh" || {
    echo "build_zipapp.sh: $python cannot make virtual environments; install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2
    exit 1
  }
  "$fresh/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-build.lock
  touch "$fresh/complete"
  # Another build may have been quicker; both are the same.
  [ -e "$venv/complete" ] || { rm -rf -- "$venv" && mv -- "$fresh" "$venv"; }
fi

exec "$venv/bin/python" scripts/make_zipapp.py --output "${output:-llamaswap.pyz}"
