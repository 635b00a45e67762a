#!/bin/sh
# Installs what the build needs and the distribution has: the supervisor of
# containers has C in it, which musl's libc and the kernel's headers are for, and
# busybox is the base of an image. With the argument "test" also what the tests need,
# containerd and runc to compare with and tools that make networks; with "cri"
# libseccomp too, to be compared with.
set -eu
missing=""
[ -x /bin/busybox ] || missing="$missing busybox-static"
command -v gcc >/dev/null || missing="$missing gcc libc6-dev"
command -v musl-gcc >/dev/null || missing="$missing musl-tools linux-libc-dev"
command -v objcopy >/dev/null || missing="$missing binutils"
case "${1:-}" in test | cri)
	command -v containerd >/dev/null || missing="$missing containerd"
	command -v runc >/dev/null || missing="$missing runc"
	command -v ip >/dev/null || missing="$missing iproute2"
	command -v nft >/dev/null || missing="$missing nftables"
	if grep -qs Y /sys/module/apparmor/parameters/enabled; then
		command -v apparmor_parser >/dev/null || missing="$missing apparmor"
	fi
	;;
esac
if [ "${1:-}" = cri ]; then
	command -v pkg-config >/dev/null || missing="$missing pkg-config"
	pkg-config --exists libseccomp 2>/dev/null || missing="$missing libseccomp-dev"
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "deps: missing:$missing. Run as root, or install them yourself." >&2
	exit 1
fi
if ! command -v apt-get >/dev/null; then
	echo "deps: missing:$missing, and this is not a Debian-like system: install them with its package tool." >&2
	exit 1
fi
echo "deps: installing$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update -q && apt-get install -y -q --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -20 "$log" >&2
	exit 1
fi
rm -f "$log"
