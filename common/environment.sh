# Sourced by the shell files: finds the Python to use, and makes virtual environments where they are missing.

# environment FOLDER REQUIREMENTS: afterwards FOLDER/bin/python has everything that REQUIREMENTS names. A folder that is
# half made, or was made from other requirements, is brought up to date.
environment() {
    local folder=$1 requirements=$2 wanted python
    wanted=$(cat "$requirements" pyproject.toml | cksum)
    if [ "$(cat "$folder/requirements.cksum" 2>/dev/null)" = "$wanted" ] && [ -x "$folder/bin/python" ]; then
        return
    fi
    echo "== installing $requirements into $folder (minutes)"
    if ! "$folder/bin/python" -m pip --version > /dev/null 2>&1; then
        python=$(new_enough_python) || return 1
        "$python" -m venv --clear "$folder" || {
            echo "error: no virtual environment in $folder: install Python's venv (Debian: apt install python3-venv)" >&2
            return 1
        }
    fi
    "$folder/bin/python" -m pip install --requirement "$requirements" || {
        echo "error: $requirements could not be installed (pip says why above): mend that, then run this again" >&2
        return 1
    }
    echo "$wanted" > "$folder/requirements.cksum"
}

new_enough_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 or newer is needed and none was found: install one, or name it by PYTHON=/path/to/python" >&2
    return 1
}

# Sets $python for the figures: an environment that is active or named by PYTHON, else .venv, made where it is missing.
use_python() {
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        python=${PYTHON:-python}
    else
        environment .venv requirements.txt
        python=.venv/bin/python
    fi
}
