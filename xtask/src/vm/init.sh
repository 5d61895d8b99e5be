#!/bin/busybox sh
# The first process of a guest: prepares a machine as podmeter finds it on a node, then runs the tests, or a shell.
# Results go to the second serial port, so that no message of the kernel comes between their letters.
export PATH=/sbin:/bin HOME=/tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for controller in cpu io memory pids; do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
done
hostname guest
ip link set lo up
for module in /modules/*; do
    insmod "$module"
done
mount -t configfs configfs /sys/kernel/config

# What a runner prints, between its name and its exit code. The empty lines end a line that a runner left unfinished.
say() {
    name=$1
    shift
    printf '\n@guest begin %s\n' "$name"
    "$@" 2>&1
    printf '\n@guest end %s %s\n' "$name" $?
}

# The kernel passes on what it does not know of its command line, NAME=VALUE as a variable.
if [ "$MODE" = shell ]; then
    echo "podmeter is in /bin, the tests are in /tests. Leave with ^D, or ^A x."
    setsid cttyhack sh
else
    export PODMETER_BIN=/bin/podmeter PODMETER_STATIC_BIN=/bin/podmeter
    stty -F /dev/ttyS1 raw
    {
        # Without the variables of the tests, which podmeter does not know.
        say check env -u PODMETER_BIN -u PODMETER_STATIC_BIN -u PODMETER_EMULATED podmeter check --json
        for test in /tests/*; do
            name=${test##*/}
            arguments=$(cat "/arguments/$name" 2> /dev/null)
            say "$name" "$test" --test-threads=1 --show-output --color=never $arguments $FILTER
            # To see that what ends here is reported: `cargo xtask test vm --provoke`.
            case $PROVOKE in
                panic) echo c > /proc/sysrq-trigger ;;
                hang) sleep 86400 ;;
            esac
        done
        # Last, since there is no way back: what podmeter does where the kernel keeps its memory to itself.
        case $FILTER in
            '' | locked_down*)
                mount -t securityfs securityfs /sys/kernel/security
                echo confidentiality > /sys/kernel/security/lockdown
                say lockdown /tests/refused --test-threads=1 --show-output --color=never locked_down_
                ;;
        esac
        printf '\n@guest off\n'
    } > /dev/ttyS1
fi
poweroff -f
