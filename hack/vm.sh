#!/bin/bash
# hack/vm.sh DIR COMMAND...: runs a command here, but under Debian's kernel in a virtual
# machine (qemu, emulated: about ten times as slow), which has what this machine may
# lack: cgroup v2 alone, AppArmor. It sees the files of this machine, what it writes is
# lost. DIR keeps the kernel and the disk for /tmp. As root, on Debian; the exit code is
# the command's.
set -euo pipefail
[ $# -ge 2 ] || { sed -n 's/^# //p' "$0" >&2; exit 2; }
here=$(pwd) dir=$(realpath -m "$1")
shift
mkdir -p "$dir"
cd "$dir"

need=""
command -v qemu-system-x86_64 >/dev/null || need="$need qemu-system-x86"
command -v depmod >/dev/null || need="$need kmod"
command -v cpio >/dev/null || need="$need cpio"
command -v apparmor_parser >/dev/null || need="$need apparmor"
command -v mkfs.ext4 >/dev/null || need="$need e2fsprogs"
[ -x /bin/busybox ] || need="$need busybox-static"
if [ -n "$need" ]; then
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $need >/dev/null
fi
if ! ls kernel/boot/vmlinuz-* >/dev/null 2>&1; then
	apt-get update -qq
	package=$(apt-cache depends linux-image-amd64 | sed -n 's/ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
	apt-get download -qq "$package"
	rm -rf kernel unpacked
	dpkg -x "$package"_*.deb unpacked
	rm "$package"_*.deb
	mv unpacked kernel
fi
version=$(cd kernel/boot && echo vmlinuz-*)
version=${version#vmlinuz-}
depmod -b kernel "$version"

# The first file system: it loads what the others take, and puts memory over them.
rm -rf first && mkdir -p first/{bin,proc,sys,dev,files,memory,root}
cp /bin/busybox first/bin/
for module in 9p 9pnet_virtio overlay virtio_pci; do
	modprobe -d "$dir/kernel" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
	cp "$file" first/
	echo "/$(basename "$file")" >>first/modules
done
cat >first/init <<'END'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc && $b mount -t sysfs sysfs /sys && $b mount -t devtmpfs devtmpfs /dev
for module in $($b cat /modules); do $b insmod $module; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro files /files
$b mount -t tmpfs tmpfs /memory && $b mkdir /memory/upper /memory/work
$b mount -t overlay -o lowerdir=/files,upperdir=/memory/upper,workdir=/memory/work overlay /root
for at in proc sys dev; do $b mount --move /$at /root/$at; done
$b cp /start /root/start
exec $b switch_root /root /bin/bash /start
END
chmod +x first/init
{
	printf 'kernel=%q here=%q\n' "$dir/kernel/lib/modules" "$here"
	printf 'command() {'
	printf ' %q' "$@"
	printf '; }\n'
	printf 'export HOME=%q PATH=%q' "$HOME" "$PATH"
	for name in CGO_ENABLED GOFLAGS GOPROXY GOCACHE GOMODCACHE; do
		[ -n "${!name-}" ] && printf ' %s=%q' "$name" "${!name}"
	done
	cat <<'END'

mkdir -p /lib/modules && mount --bind "$kernel" /lib/modules
modprobe -a virtio_blk ext4 tun veth bridge nf_tables nft_chain_nat nft_ct nft_masq vxlan
mount -t tmpfs tmpfs /run && mount /dev/vda /tmp && chmod 1777 /tmp
mkdir -p /tmp/lib /var/lib/knarr && mount --bind /tmp/lib /var/lib/knarr
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o ptmxmode=666 devpts /dev/pts && mount -t tmpfs tmpfs /dev/shm && mount -t mqueue mqueue /dev/mqueue
mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t securityfs securityfs /sys/kernel/security
mkdir /sys/fs/cgroup/init && echo $$ >/sys/fs/cgroup/init/cgroup.procs
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$c >/sys/fs/cgroup/cgroup.subtree_control; done
mount --make-rshared / && ip link set lo up && ulimit -n 65536
echo "vm: Linux $(uname -r), $(cat /sys/kernel/security/lsm)"
cd "$here" && command
code=$?
echo; echo "vm: exit $code" # on a line of its own
echo o >/proc/sysrq-trigger
sleep 60
END
} >first/start
(cd first && find . | cpio --quiet -o -H newc | gzip -1) >first.gz

rm -f disk && truncate -s 16G disk && mkfs.ext4 -q -O ^has_journal disk
trap 'rm -f disk out' EXIT
timeout --foreground "${VM_TIMEOUT:-3600}" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max,la57=off -smp "$(nproc)" -m 12G \
	-nographic -no-reboot -nic none -kernel "kernel/boot/vmlinuz-$version" -initrd first.gz -append "console=ttyS0 quiet panic=-1" \
	-virtfs local,path=/,mount_tag=files,security_model=none,readonly=on,multidevs=remap \
	-drive file=disk,if=virtio,format=raw,cache=unsafe </dev/null | sed -u 's/\r//g' | tee out
code=$(sed -n 's/^vm: exit //p' out | tail -1)
exit "${code:-1}"
