# Furnishes the namespaces that it was started in as one machine of the cluster, prints "ready", and keeps them.
# Arguments: the machine's directory, its name, and either `v2` or the hierarchies of cgroup v1 as NAME=OPTIONS.
set -eu
root=$1
echo "$2" >/proc/sys/kernel/hostname
shift 2

# Devices of this network namespace, pins of this machine alone, and cgroups below this machine's own.
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
if [ "$1" = v2 ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for hierarchy; do
        directory=/sys/fs/cgroup/${hierarchy%%=*}
        mkdir "$directory"
        mount -t cgroup -o "${hierarchy#*=}" cgroup "$directory"
    done
fi

# The kubelet sets these for the whole kernel, unless they already read so.
mkdir "$root/sysctl"
keep() {
    file=$root/sysctl/$(basename "$1")
    echo "$2" >"$file"
    mount --bind "$file" "/proc/sys/$1"
}
keep vm/overcommit_memory 1
keep vm/panic_on_oom 0
keep kernel/panic 10
keep kernel/panic_on_oops 1
keep kernel/keys/root_maxkeys 1000000
keep kernel/keys/root_maxbytes 25000000

# What this machine writes below /etc and /opt stays its own; of Kubernetes and CNI it sees nothing of the host.
for directory in etc opt; do
    mount -t overlay -o "lowerdir=/$directory,upperdir=$root/$directory,workdir=$root/work-$directory" overlay "/$directory"
done
mkdir -p /etc/kubernetes /etc/cni /opt/cni
mount --bind "$root/kubernetes" /etc/kubernetes
mount --bind "$root/etc-cni" /etc/cni
mount --bind "$root/opt-cni" /opt/cni
mount --bind "$root/log" /var/log
# From here on the machine's directory itself is out of sight.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
mount --bind "$root/lib" /var/lib

for setting in net/ipv4/ip_forward=1 net/ipv6/conf/all/forwarding=1 net/ipv6/conf/default/forwarding=1 \
    net/ipv6/conf/all/accept_dad=0 net/ipv6/conf/default/accept_dad=0 \
    net/bridge/bridge-nf-call-iptables=1 net/bridge/bridge-nf-call-ip6tables=1; do
    # A kernel without br_netfilter has no net/bridge.
    if [ -e "/proc/sys/${setting%%=*}" ]; then
        echo "${setting#*=}" >"/proc/sys/${setting%%=*}"
    fi
done
ip link set lo up
echo ready
exec sleep infinity
