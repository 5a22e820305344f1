# Sourced by the shell files: makes a virtual environment where it is missing or its requirements have changed.

# environment FOLDER REQUIREMENTS: afterwards FOLDER/bin/python has everything that REQUIREMENTS names.
environment() {
    local folder=$1 requirements=$2 wanted
    wanted=$(cat "$requirements" pyproject.toml | cksum)
    if [ -x "$folder/bin/python" ] && [ "$(cat "$folder/requirements.cksum" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "== installing $requirements into $folder"
    if [ ! -x "$folder/bin/python" ]; then
        "$(new_enough_python)" -m venv "$folder" || {
            echo "error: could not make a virtual environment in $folder: install Python's venv (Debian: apt install python3-venv)" >&2
            return 1
        }
    fi
    "$folder/bin/python" -m pip install --quiet --upgrade pip
    "$folder/bin/python" -m pip install --progress-bar on --requirement "$requirements" | grep --line-buffered -v -e 'already satisfied' -e '^Looking in' || return 1
    echo "$wanted" > "$folder/requirements.cksum"
}

new_enough_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 or newer is needed and none was found: install one, or name it by PYTHON=/path/to/python" >&2
    return 1
}
