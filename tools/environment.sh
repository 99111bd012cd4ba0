# Sets up the checkout's virtual environment. Sourced by tools/demo and tools/test; POSIX sh, nothing installed beforehand.
#
# environment_ready EXTRA leaves $environment_python, an interpreter that has the checkout and that extra installed in
# .venv. It is quiet unless something fails, reuses what is there, and installs again only after pyproject.toml, setup.py
# or the place of the checkout has changed. $PYTHON names the interpreter to build on.

environment_say() {
    printf '%s\n' "$@" >&2
}

environment_fail() {
    environment_say "$@"
    exit 1
}

environment_is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

environment_can_make() {
    environment_is_recent "$1" && "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

# Prints the interpreter to build on: $PYTHON if given, else the first fit one on PATH, else one that pyenv keeps.
environment_find_python() {
    if [ -n "${PYTHON:-}" ]; then
        environment_is_recent "$PYTHON" || environment_fail \
            "PYTHON is set to '$PYTHON', which is no Python 3.10 or newer that can be run. Name another, or unset it."
        environment_can_make "$PYTHON" || environment_fail \
            "'$PYTHON' can't make virtual environments. On Debian: apt-get install python3-venv"
        printf '%s\n' "$PYTHON"
        return
    fi
    environment_lacks_venv=
    for environment_candidate in python3 python3.13 python3.12 python3.11 python3.10 python \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[0-9]*/bin/python3; do
        if environment_can_make "$environment_candidate"; then
            printf '%s\n' "$environment_candidate"
            return
        fi
        if environment_is_recent "$environment_candidate"; then
            environment_lacks_venv=$environment_candidate
        fi
    done
    [ -z "$environment_lacks_venv" ] || environment_fail \
        "'$environment_lacks_venv' can't make virtual environments. On Debian: apt-get install python3-venv"
    environment_fail "CopyCat needs Python 3.10 or newer, and none was found." \
        "Install one (on Debian: apt-get install python3 python3-venv), or name it: PYTHON=/path/to/python3 $0"
}

# What an installation depends on; when this changes, it is done again.
environment_fingerprint() {
    {
        printf '%s\n' "$environment_root"
        cat "$environment_root/pyproject.toml" "$environment_root/setup.py"
    } | cksum
}

environment_version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

environment_run_logged() {
    "$@" >"$environment_log" 2>&1
}

environment_report_failure() {
    cat "$environment_log" >&2
    environment_say "" "The set-up of $environment_root/.venv failed; what it printed is above."
    if grep -q 'wheels\{0,1\} for.*plyvel\|(plyvel)' "$environment_log"; then
        environment_say "plyvel, which LevelDB storage needs, has no ready-made wheel for this machine and did not build." \
            "On Debian: apt-get install libleveldb-dev g++ python3-dev"
    fi
    exit 1
}

environment_ready() {
    environment_extra=$1
    environment_root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P) || exit 1
    environment_home=$environment_root/.venv
    environment_python=$environment_home/bin/python
    environment_stamp=$environment_home/.installed-$environment_extra
    environment_fingerprint=$(environment_fingerprint)

    environment_fits=no
    if environment_is_recent "$environment_python"; then
        environment_fits=yes
        if [ -n "${PYTHON:-}" ] &&
            [ "$(environment_version "$PYTHON")" != "$(environment_version "$environment_python")" ]; then
            environment_fits=no
        fi
    fi
    if [ $environment_fits = yes ] && [ "$(cat "$environment_stamp" 2>/dev/null)" = "$environment_fingerprint" ]; then
        return
    fi

    environment_log=$(mktemp) || exit 1
    trap 'rm -f "$environment_log"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ $environment_fits = no ]; then
        [ -d "$environment_home" ] || rm -f "$environment_home" # tox leaves a file there that points to its last environment
        environment_base=$(environment_find_python) || exit 1
        environment_run_logged "$environment_base" -m venv --clear "$environment_home" || environment_report_failure
    fi
    environment_run_logged "$environment_python" -m pip install --quiet --disable-pip-version-check \
        -e "$environment_root[$environment_extra]" || environment_report_failure
    printf '%s\n' "$environment_fingerprint" >"$environment_stamp"
    rm -f "$environment_log"
    trap - EXIT INT TERM
}
