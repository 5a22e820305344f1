# Sourced by the shell files after they have changed to the project's root: their --help, the settings they take, the
# Python they use, and virtual environments, which are made if they are missing.

here=${OLDPWD:-$PWD} # the caller's folder; the root if a shell file calls another
case ${PYTHON:-} in
    [!/]*/*) if [ -x "$here/$PYTHON" ]; then PYTHON=$here/$PYTHON; fi ;;
esac

# environment FOLDER REQUIREMENTS: makes sure that FOLDER/bin/python has everything that REQUIREMENTS names and the
# modules of this checkout. A folder that is incomplete, copied, or made from other requirements is brought up to date.
environment() {
    local folder=$1 requirements=$2 wanted candidate
    wanted=$(cat "$requirements" pyproject.toml | cksum)
    if [ "$(cat "$folder/requirements.cksum" 2>/dev/null)" = "$wanted" ] && fits "$folder/bin/python" > /dev/null; then
        return
    fi
    echo "== installing $requirements into $folder (minutes)"
    if ! "$folder/bin/python" -m pip --version > /dev/null 2>&1; then
        for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
            if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then break; fi
        done
        "$candidate" -m venv --clear "$folder" || {
            echo "error: no virtual environment in $folder: it needs Python 3.11 or newer with venv (Debian: apt install" \
                "python3-venv); give one with PYTHON=/path/to/python" >&2
            return 1
        }
    fi
    "$folder/bin/python" -m pip install --requirement "$requirements" || {
        echo "error: $requirements could not be installed (pip says why above): fix that, then run this again" >&2
        return 1
    }
    echo "$wanted" > "$folder/requirements.cksum"
}

# fits PYTHON [PACKAGE …]: succeeds if PYTHON has these packages and finds the modules of this checkout, whichever
# script it runs. Otherwise prints why, if it can.
fits() {
    "$1" -P -c '
import importlib.util, os, sys
if not all(importlib.util.find_spec(name) for name in sys.argv[1:]):
    sys.exit(1)
common = importlib.util.find_spec("common")
if not common or not common.origin or not os.path.samefile(os.path.dirname(common.origin), "common"):
    sys.exit(print("lacks the modules of this checkout") or 1)' "${@:2}" 2> /dev/null
}

# All that a shell file may take beside PRESET.
settings="MODEL MODELS CORPUS TOKENIZER PREPARE_FLAGS OTHER_START LENGTHS SEEDS FIT RUNS WORKERS SPLIT OUT"

# begin PRESETS SETTING …: sets PRESET to cpu if it is not set, and results to the folder of its results. Refuses other
# presets than PRESETS, and settings that the figure does not read, because a result that silently ignores them is worse
# than none. Sets $python to PYTHON or to the active environment if that has all that is needed, else to .venv, made if
# missing. OUT and RUNS are relative to the caller's folder, as are inputs that exist there (or, for a pattern, whose
# folder does), each word of MODELS by itself; paths in PREPARE_FLAGS and flags are relative to the root.
begin() {
    local presets=$1 choices=${1// /, } setting reason values i
    shift
    PRESET=${PRESET:-cpu}
    for setting in $settings; do
        case " $* " in *" $setting "*) continue ;; esac
        if [ -n "${!setting:-}" ]; then
            echo "error: ${0##*/} takes no $setting, and it is set to '${!setting}': unset it;" \
                "what can be set: ${*:-nothing but PRESET} (bash $0 --help)" >&2
            exit 2
        fi
    done
    if [[ ! $PRESET =~ ^(${presets// /|})$ ]]; then
        echo "error: PRESET=$PRESET: choose ${choices/%, ${presets##* }/ or ${presets##* }}" >&2
        exit 2
    fi
    results=results
    if [ "$PRESET" != cpu ]; then results+=/$PRESET; fi
    python=.venv/bin/python
    if [ -n "${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        python=${PYTHON:-python}
        if ! reason=$(fits "$python" datasets matplotlib pandas torch transformers tyro); then
            echo "== $python ${reason:-lacks packages of requirements.txt}: taking .venv instead"
            python=.venv/bin/python
        fi
    fi
    if [ "$python" = .venv/bin/python ]; then environment .venv requirements.txt; fi
    if [ -n "${PREPARE_FLAGS:-}" ]; then own_needs_out PREPARE_FLAGS; fi
    if [ -n "${MODELS:-}" ]; then MODELS=${MODELS//$'\n'/ }; fi
    if [ "$here" = "$PWD" ]; then return; fi
    for setting in MODEL MODELS CORPUS TOKENIZER FIT RUNS OUT; do
        if [ -z "${!setting:-}" ]; then continue; fi
        values=("${!setting}")
        if [ "$setting" = MODELS ]; then read -ra values <<< "$MODELS"; fi
        for i in "${!values[@]}"; do
            case $setting:${values[i]} in
                *:/*) continue ;;
                OUT:* | RUNS:*) ;;
                *) if [ ! -e "$here/${values[i]%%[*?[]*}" ]; then continue; fi ;; # a name, or what lies in the root
            esac
            values[i]=$here/${values[i]}
        done
        printf -v "$setting" %s "${values[*]}"
    done
}

# own_needs_out WHAT: refuses inputs of the user's own, called WHAT, without a folder for their results.
own_needs_out() {
    if [ -n "${OUT:-}" ]; then return; fi
    echo "error: set OUT, e.g. OUT=results/mine: with $1 of your own the results go there" >&2
    exit 2
}

# at_a_time WORKERS FUNCTION: calls the exported FUNCTION with the words of each line of its input, WORKERS at a time.
# On a machine with several GPUs, each worker uses one of them. Ends when a call returns 255.
at_a_time() {
    local workers=$1 function=$2 devices
    # Without `|| true`, pipefail and set -e would end the script on a machine without nvidia-smi.
    devices=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null | paste -sd, - || true)}
    case $devices in
        *,*) # --process-slot-var is of GNU, as is every machine with several GPUs
            DEVICES=$devices xargs -P "$workers" -L 1 --process-slot-var=SLOT bash -c '
                IFS=, read -ra devices <<< "$DEVICES"
                CUDA_VISIBLE_DEVICES=${devices[SLOT % ${#devices[@]}]} "$@"' _ "$function"
            ;;
        *) xargs -P "$workers" -L 1 bash -c '"$@"' _ "$function" ;;
    esac
}

# logged NAME FILE COMMAND …: runs a program for `at_a_time`, appends its output to FILE and prints the last line.
logged() {
    local name=$1 file=$2
    shift 2
    mkdir -p "$(dirname "$file")"
    if OMP_NUM_THREADS=$threads "$python" "$@" >> "$file" 2>&1; then
        echo "$name: $(tail -n 1 "$file")"
    else
        echo "error: $name, see $file: $(tail -n 1 "$file")" >&2
        return 255 # xargs starts no further run
    fi
}
export -f logged

# mamba_kernels: refuses to start weeks of training without the fast kernels.
mamba_kernels() {
    if ! "$python" -c 'import causal_conv1d, mamba_ssm' 2> /dev/null; then
        echo "error: PRESET=paper trains Mamba models, which take many times longer without the CUDA kernels of" \
            "causal-conv1d and mamba-ssm: install them on a machine with nvcc ($python -m pip install" \
            "--no-build-isolation causal-conv1d mamba-ssm), or name models that need none, e.g. MODELS=gpt2" >&2
        exit 2
    fi
}

# The arguments are those of the shell file that sources this one; the comment at its top is its help.
case ${1:-} in
    -h | --help)
        (cd "$here" && sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0")
        exit
        ;;
esac
