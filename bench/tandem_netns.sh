#!/bin/sh
# SPDX-License-Identifier: MIT
# Two network namespaces joined by one link of a rate of your choice: two machines in one, to try
# `tandem prefill` and `tandem run --prefill` over a real, slow link. Needs root and iproute2.
#   bench/tandem_netns.sh run RATE 'FAR COMMAND' 'NEAR COMMAND'
#       starts FAR in one namespace, NEAR in the other, ends FAR when NEAR has ended; exits as NEAR.
#   bench/tandem_netns.sh up NAME RATE      the same in steps: make them,
#   bench/tandem_netns.sh rate NAME RATE    change the link,
#   bench/tandem_netns.sh in NAME far|near COMMAND...
#   bench/tandem_netns.sh down NAME         and end what still runs in them.
# RATE is bits per second as tc takes it (300mbit, 1gbit), or `none`: as fast as the machine can.
# The far side is 10.77.0.1, the near side 10.77.0.2.
#   bench/tandem_netns.sh run 1gbit \
#       'build/tandem prefill -m model.gguf --listen 10.77.0.1:4711 --key k' \
#       'sleep 5; build/tandem run -m model.gguf --prefill 10.77.0.1:4711 --key k -p Hello'
set -u

die() {
    echo "tandem_netns: $1" >&2
    exit "${2:-1}"
}

usage() {
    sed -n 's/^# \{0,1\}//; 4,15p' "$0" >&2
    exit 2
}

# A packet of offloaded TCP is up to 64 KB, which the bucket must hold; else a hundredth of a second.
shape() { # NAMESPACE DEVICE RATE
    ip netns exec "$1" tc qdisc del dev "$2" root 2>/dev/null
    [ "$3" = none ] && return 0
    ip netns exec "$1" tc qdisc add dev "$2" root tbf rate "$3" burst "$(burst_of "$3")" latency 50ms
}

burst_of() {
    bits=$(echo "$1" | awk '{ n = $1 + 0; u = tolower($1)
        if (u ~ /gbit$/) n *= 1e9; else if (u ~ /mbit$/) n *= 1e6; else if (u ~ /kbit$/) n *= 1e3
        b = n / 8 / 100; printf "%d", b < 131072 ? 131072 : b }')
    echo "${bits}b"
}

up() { # NAME RATE
    name=$1
    ip netns add "$name-far" || die "cannot make the namespace $name-far"
    ip netns add "$name-near" || die "cannot make the namespace $name-near"
    ip -n "$name-far" link add eth0 type veth peer name eth0 netns "$name-near" ||
        die "cannot make a veth pair"
    for side in far near; do
        [ $side = far ] && address=10.77.0.1/24 || address=10.77.0.2/24
        ip -n "$name-$side" addr add $address dev eth0 &&
            ip -n "$name-$side" link set lo up && ip -n "$name-$side" link set eth0 up || return 1
    done
    rate "$name" "$2"
}

rate() { # NAME RATE
    shape "$1-far" eth0 "$2" && shape "$1-near" eth0 "$2" || die "tc does not take the rate $2"
}

down() { # NAME
    for side in far near; do
        pids=$(ip netns pids "$1-$side" 2>/dev/null)
        [ -n "$pids" ] && kill -9 $pids 2>/dev/null
        ip netns del "$1-$side" 2>/dev/null
    done
    return 0
}

[ $# -ge 1 ] || usage
command -v ip >/dev/null && command -v tc >/dev/null || die "needs ip and tc (iproute2)"
[ "$(id -u)" -eq 0 ] || die "making network namespaces needs root"
verb=$1
shift
case $verb in
up) [ $# -eq 2 ] || usage; up "$1" "$2" ;;
rate) [ $# -eq 2 ] || usage; rate "$1" "$2" ;;
down) [ $# -eq 1 ] || usage; down "$1" ;;
in)
    [ $# -ge 3 ] || usage
    case $2 in far | near) ;; *) usage ;; esac
    where=$1-$2
    shift 2
    exec ip netns exec "$where" "$@"
    ;;
run)
    [ $# -eq 3 ] || usage
    name=tandem-$$
    trap 'down "$name"' EXIT
    trap 'exit 130' INT TERM
    up "$name" "$1" || exit 1
    ip netns exec "$name-far" sh -c "$2" &
    ip netns exec "$name-near" sh -c "$3"
    exit
    ;;
*) usage ;;
esac
