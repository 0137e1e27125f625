#!/usr/bin/env bash
# What load does to the hashing core of a machine with many cores, in some five minutes: a busy
# sibling, all cores busy, memory traffic (poet-bench --survey), real-time priority, and the server on
# its work core without and with eight auditors. As root, on a machine that does nothing else.
#
#   benches/survey.sh FOLDER [LABEL]
#
# Takes poet-bench and poet-service from $BIN (target/release), writes to FOLDER.
set -euo pipefail
out=${1:?usage: benches/survey.sh FOLDER [LABEL]}
label=${2:-$(uname -n)}
bin=${BIN:-target/release}
mkdir -p "$out"

echo "--- survey"
"$bin/poet-bench" --survey --label "$label" --force \
    --json "$out/survey.json" --html "$out/survey.html" --markdown "$out/survey.md" | tee "$out/survey.txt"

echo "--- check"
"$bin/poet-bench" check | tee "$out/check.txt"

core=$(sed -n 's/^Undisturbed, core \([0-9]*\).*/\1/p;s/^  Undisturbed, core \([0-9]*\).*/\1/p' "$out/survey.txt" | head -n 1)
echo "--- real-time priority, core $core"
if chrt -f 1 true 2>/dev/null; then
    chrt -f 1 "$bin/poet-bench" --core "$core" --label "$label, real-time" --force \
        --json "$out/realtime.json" | tail -n 12 | tee "$out/realtime.txt"
else
    echo "skipped: real-time priority is not permitted" | tee "$out/realtime.txt"
fi

# A round of an hour, looked at for half a minute after ten seconds.
serve() {
    local name=$1 folder server rest
    shift
    echo "--- server, $name"
    folder=$(mktemp -d)
    "$bin/poet-service" --poetdir="$folder" --restlisten=127.0.0.1:0 --rpclisten=127.0.0.1:0 \
        --config-rpclisten=127.0.0.1:0 --epoch-duration=2h --phase-shift=2s --cycle-gap=1h \
        --work-core=auto "$@" >"$folder/greeting" 2>"$out/server-$name.log" &
    server=$!
    for _ in $(seq 100); do
        rest=$(sed -n 's|^REST *http://||p' "$folder/greeting")
        [ -z "$rest" ] || break
        sleep 0.1
    done
    sleep 10
    for _ in $(seq 6); do
        sleep 5
        # Only the round that is worked on has a rate.
        curl -sS "http://$rest/v1/rounds" | grep -o '"leavesPerSecond":[0-9]*' || true
    done | tee "$out/server-$name.txt"
    kill "$server"
    wait "$server" || true
    rm -rf "$folder"
}
serve alone --audit=off
serve eight-auditors --audit=full --audit-threads=8
echo "--- written to $out"
