#!/bin/sh
# Runs a command and ends its whole process group once standard input closes.
#
# The stories hold the other end: however they end, even by SIGKILL, no peer outlives them. The group is this
# script's own, so nothing that somebody else started is ever touched.
exec 3<&0
"$@" </dev/null 3<&- &
peer=$!
{
    cat <&3 >/dev/null
    kill -KILL "-$$"
} >/dev/null 2>&1 &
exec 3<&-
wait "$peer"
