#!/usr/bin/env bash
# Make a virtual environment with pip >= 24 from the first Python >= 3.11 found; leaves a working one alone.
# Usage: venv.sh FOLDER    PYTHON=/path/to/python overrides the search.
set -euo pipefail
folder=$1

works() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if ! { [ -x "$folder/bin/python" ] && works "$folder/bin/python"; }; then
    python=
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3 python; do
        if works "$candidate"; then python=$candidate; break; fi
    done
    if [ -z "$python" ]; then
        echo "error: expected Python 3.11 or newer on the path, found none. Install one, or set PYTHON=/path/to/python." >&2
        exit 1
    fi
    # Debian splits venv's pip into a package of its own; the system's pip can fill in for it.
    "$python" -m venv --clear "$folder" 2>/dev/null || {
        "$python" -m venv --clear --without-pip "$folder" &&
            "$python" -m pip --python "$folder/bin/python" install --quiet 'pip>=24'
    } || {
        echo "error: $python can make no virtual environment. Install its venv package (Debian: apt-get install python3-venv)." >&2
        exit 1
    }
fi
"$folder/bin/python" -m pip install --quiet --upgrade 'pip>=24'
