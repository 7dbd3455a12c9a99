#!/bin/sh
# Runs a command and ends its whole process group once standard input closes.
#
# The stories hold the other end: however they end, even by SIGKILL, no peer outlives them. The group is this
# script's own, so nothing that somebody else started is ever touched. SIGTERM to the group asks the command to end;
# this script stays to give its status.
exec 3<&0
# A handler, unlike an ignored signal, is not handed on to the command.
trap : TERM
"$@" </dev/null 3<&- &
peer=$!
{
    trap '' TERM
    cat <&3 >/dev/null
    kill -KILL "-$$"
} >/dev/null 2>&1 &
exec 3<&-
wait "$peer"
status=$?
# A signal ends the wait, not the command.
while kill -0 "$peer" 2>/dev/null; do
    wait "$peer"
    status=$?
done
exit "$status"
