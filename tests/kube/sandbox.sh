#!/bin/sh
# The first process of a cluster's own network, mount and process namespaces: lays them out, says
# that they are ready, and becomes the pause process. Nothing done here is seen outside, and all
# of it ends with this process. Its arguments: the cluster's directory, seen
# inside as /run/shoal, and that of the programs.
set -eu
state=$1
tools=$2

mount -t tmpfs tmpfs /run
mkdir /run/shoal
mount --bind "$state" /run/shoal
mount --bind "$tools" /run/shoal/bin
# What containerd, CNI and kubelet keep at fixed places.
mount --bind /run/shoal/var-lib /var/lib
mount --bind /run/shoal/var-log /var/log

# kubelet wants these kernel settings and would set the machine's: it finds them as it wants them.
setting() {
  [ -e "/proc/sys/$1" ] || return 0
  echo "$2" >"/run/setting-$(basename "$1")"
  mount --bind "/run/setting-$(basename "$1")" "/proc/sys/$1"
}
setting vm/overcommit_memory 1
setting vm/panic_on_oom 0
setting kernel/panic 10
setting kernel/panic_on_oops 1
setting kernel/keys/root_maxkeys 1000000
setting kernel/keys/root_maxbytes 25000000

ip link set lo up
# A bridge for each node: its address is the node's, which must not be on loopback.
for node in 1 2; do
  ip link add "node$node" type bridge
  ip address add "10.244.$((node - 1)).1/24" dev "node$node"
  ip link set "node$node" up
done
# Else what runs beside the pods reaches no Service: the address has no route.
ip route add default dev node1
echo 1 >/proc/sys/net/ipv4/ip_forward

touch /run/shoal/sandbox.ready
exec /run/shoal/bin/pause
