# shellcheck shell=bash
# Shared by the scripts here that run benches/versus. Sourced behind tests/lab/lib.sh.

# versus_program: builds benches/versus and prints the program's path.
versus_program() {
    local messages program
    messages=$(target_folder)/lab-bench.json
    cargo bench --locked --no-run --profile "${PORTCULLIS_BENCH_PROFILE:-release}" --bench versus \
        --message-format=json-render-diagnostics >"$messages" || die "cannot build benches/versus"
    program=$(sed -n 's#.*"src_path":"[^"]*/benches/versus/main.rs".*"executable":"\([^"]*\)".*#\1#p' \
        "$messages")
    [[ -x $program ]] || die "cargo names no program of benches/versus: see $messages"
    printf '%s\n' "$program"
}
