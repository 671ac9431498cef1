#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Does what orchestrator.py does: learns which programs a workload executes, and then lets it execute no others.
#
#     examples/orchestrator.sh learn FILE -- CMD [ARG ...]
#     examples/orchestrator.sh enforce FILE -- CMD [ARG ...]

plane=/run/tsem
fmode_exec=0x20 # in the flags of an open: what is opened is to be executed
no_bytes=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
file_open='"file_open": \{"file": \{"flags": "([0-9]+)".*"pathname": ("([^"\\]|\\.)*")\}, "digest": "([0-9a-f]+)"'

mode=$1 file=$2
if [[ $# -lt 4 || ! $mode =~ ^(learn|enforce)$ || $3 != -- ]]; then
	sed -n 's/^#  *ex/usage: ex/p' "$0" >&2
	exit 2
fi
shift 3

# The workload, a child of this shell, makes its own namespace. It executes CMD when it is sent a line.
exec 3<&0
exec 4> >(
	echo external nsref=current >"$plane/control" || exit 125
	read -r || exit 125 # this shell has ended
	# Without the capability it can open no file of the control plane any more, though it is root.
	exec setpriv --bounding-set=-mac_admin -- "$@" <&3 3<&-
)
workload=$!

until { read -r id <"$plane/id"; } 2>/dev/null; do
	kill -0 "$workload" 2>/dev/null || exit 125
	sleep 0.01
done
exec 5>"$plane/control" || exit 125
case $mode in
learn) : >"$file" ;;
enforce) [ -r "$file" ] && echo enforce >&5 ;;
esac || exit 125
echo go >&4

while [ -e "$plane/external_tma/$id" ]; do
	# A read at offset 0 takes a record, so the file is opened anew for each. A shell cannot poll.
	{ read -r record <"$plane/external_tma/$id"; } 2>/dev/null || { sleep 0.01; continue; }
	[[ $record == '{"export": {"type": "event"}'* ]] || continue # nobody waits
	verdict=trusted
	if [[ $record =~ $file_open ]] && ((BASH_REMATCH[1] & fmode_exec)); then
		name=${BASH_REMATCH[2]} digest=${BASH_REMATCH[4]}
		if ! grep -qxF "$digest $name" "$file"; then
			if [ "$mode" = enforce ]; then
				echo "orchestrator: $name must not be executed" >&2
				verdict=untrusted
			elif [[ $digest != "$no_bytes" && $digest == *[!f]* ]]; then
				echo "$digest $name" >>"$file"
			fi
		fi
	fi
	pid=${record#*'"pid": "'} tnum=${record#*'"tnum": "'}
	echo "$verdict pid=${pid%%\"*} tnum=${tnum%%\"*}" >&5 || exit 125
done
wait "$workload"
