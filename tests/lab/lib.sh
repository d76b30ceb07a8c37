# shellcheck shell=bash
# Shared by the test command and the kTLS lab. Sourced; the sourcing script has set strict mode.

# Says why on standard error and ends the script.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# note TEXT...: progress, on standard error, so that standard output stays an answer.
note() {
    printf '== %s\n' "$*" >&2
}

# The repository's folder, whatever the folder the script was started in.
repository() {
    local here
    here=$(dirname -- "${BASH_SOURCE[0]}")
    (cd -- "$here/../.." && pwd -P)
}

# Where cargo builds to.
target_folder() {
    local folder=${CARGO_TARGET_DIR:-}
    if [[ -z $folder ]]; then
        folder=$(repository)/target
    fi
    mkdir -p -- "$folder"
    (cd -- "$folder" && pwd -P)
}

# lacking COMMAND=PACKAGE...: the packages of those commands that this machine does not have.
lacking() {
    local pair
    for pair in "$@"; do
        # Some live in folders that only root searches, and some are no commands.
        if ! PATH=$PATH:/usr/sbin:/sbin command -v -- "${pair%%=*}" >/dev/null &&
            [[ ${pair%%=*} != /* || ! -e ${pair%%=*} ]]; then
            printf '%s\n' "${pair#*=}"
        fi
    done | sort -u
}
