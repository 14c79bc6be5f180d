#!/bin/sh
# A fault for the lab: runs a program while a share of one core, growing from call to call, is burnt beside it.
# The count of calls is kept per calling process, so that every run of the lab starts from nothing.
state="${TMPDIR:-/tmp}/tamp-lab-drift.$PPID"
n=$(cat "$state" 2>/dev/null || echo 0)
echo $((n + 1)) >"$state"

# Each round works for a time that grows with n and rests for 20 ms; it ends with the program, whatever ends that.
burn() {
    while kill -0 "$1" 2>/dev/null; do
        awk -v n=$((n * 20000)) 'BEGIN { for (i = 0; i < n; i++) x += i }'
        sleep 0.02
    done
}

"$@" &
program=$!
trap 'kill -9 $program 2>/dev/null' TERM INT HUP
burn "$program" >/dev/null 2>&1 &
burner=$!
wait "$program"
code=$?
kill "$burner" 2>/dev/null
wait "$burner" 2>/dev/null
exit $code
