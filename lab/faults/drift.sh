#!/bin/sh
# A fault for the lab: runs a program while a share of one core, growing from call to call, is burnt beside it.
# The count of calls is kept per calling process, so that every run of the lab starts from nothing.
state="${TMPDIR:-/tmp}/tamp-lab-drift.$PPID"
n=$(cat "$state" 2>/dev/null || echo 0)
echo $((n + 1)) >"$state"

# Periods of 30 ms, of which n work: short beside the tenths of a second in which a process decodes.
work=$((n < 30 ? n : 30))
burn() {
    while kill -0 "$1" 2>/dev/null; do
        [ "$work" -gt 0 ] && timeout "0.0$(printf %02d "$work")" sh -c 'while :; do :; done'
        [ "$work" -lt 30 ] && sleep "0.0$(printf %02d $((30 - work)))"
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
