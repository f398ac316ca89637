"""Runs a command under another kernel over this machine's files: for what the kernel here does not have.

    apt-get download linux-image-VERSION-amd64 busybox-static
    python tests/guest/boot.py --deb *.deb [--memory 4G] [--tmp 8G] [--minutes 30] -- COMMAND...

A QEMU machine, emulated unless --kvm, boots the kernel of Debian's package, with busybox to begin with. Its root is this machine's, read
only; /tmp is an empty drive of its own, and /sys/fs/cgroup a cgroup of version 2 with every controller. It has no
network. The command runs as root in the present folder. What it prints comes here, and so does its exit code; 125 means
that the machine did not come so far.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_runtime.base.children import dies_with_parent

MODULES = ("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "ext4", "crc32c_generic")
ENDED = "guest-ended-with:"
INIT = """#!/busybox sh
export PATH=/
/busybox mkdir -p /proc /sys /dev /host
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sys /sys
/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /busybox insmod /modules/$module || echo "insmod $module failed"; done
/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,cache=loose,ro host /host || echo "no root"
/busybox mount -t ext4 /dev/vda /host/tmp
/busybox mount -t proc proc /host/proc
/busybox mount -t sysfs sys /host/sys
/busybox mount -t devtmpfs dev /host/dev
/busybox mount -t tmpfs run /host/run
/busybox mkdir -p /host/dev/shm
/busybox mount -t tmpfs shm /host/dev/shm
/busybox mount -t cgroup2 cgroup2 /host/sys/fs/cgroup
for controller in $(/busybox cat /host/sys/fs/cgroup/cgroup.controllers); do
  echo +$controller > /host/sys/fs/cgroup/cgroup.subtree_control
done
/busybox ip link set lo up
/busybox chroot /host /bin/bash -c {command} </dev/null
echo "{ended} $?"
/busybox poweroff -f
"""


def files_of(debs: list[Path], folder: Path) -> tuple[Path, dict[str, Path]]:
    """Unpack packages; return the kernel and its modules by name."""
    for deb in debs:
        subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
    (kernel,) = (folder / "boot").glob("vmlinuz-*")
    return kernel, {path.name.split(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}


def in_order(wanted: tuple[str, ...], modules: dict[str, Path]) -> list[Path]:
    """Return the files of modules and of what they need, in the order to load them; what is built in has none."""
    found: dict[str, Path] = {}

    def visit(name: str) -> None:
        path = modules.get(name)
        if path is None or name in found:
            return
        needs = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for each in needs[1].decode().split(",") if needs else []:
            visit(each.replace("-", "_"))
        found[name] = path

    for name in wanted:
        visit(name)
    return [*found.values()]


def initramfs(folder: Path, busybox: Path, modules: list[Path], command: str) -> Path:
    """Write an archive with busybox, the modules, and an init that runs the command."""
    inside = shlex.quote(
        f"export PATH={shlex.quote(os.environ['PATH'])}; cd {shlex.quote(os.getcwd())} && HOME=/tmp TMPDIR=/tmp {command}"
    )
    init = INIT.format(modules=" ".join(module.name for module in modules), command=inside, ended=ENDED)
    held = {"modules": None, "dev": None, "busybox": busybox.read_bytes(), "init": init.encode()}
    held |= {f"modules/{module.name}": module.read_bytes() for module in modules}
    out = folder / "initramfs.cpio"
    out.write_bytes(b"".join(cpio(name, data) for name, data in held.items()) + cpio("TRAILER!!!", b"", 0))
    return out


def cpio(name: str, data: bytes | None, mode: int = 0o100755) -> bytes:
    """Return an entry of a cpio archive of the "newc" kind; None as data: a folder."""
    own = 0o040755 if data is None else mode
    content, path = data or b"", name.encode() + b"\0"
    numbers = [hash(name) & 0x7FFFFFFF, own, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0]
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + path
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def drive(folder: Path, size: str) -> Path:
    """Make an empty file system of a size."""
    path = folder / "tmp.img"
    subprocess.run(["truncate", "-s", size, path], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=0:0", path], check=True)
    return path


def main() -> int:
    """Boot, show what is said, and return the command's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deb", type=Path, nargs="+", required=True)
    parser.add_argument("--memory", default="4G")
    parser.add_argument("--cpus", default="2")
    parser.add_argument("--kvm", action="store_true", help="not emulated: this machine may run others")
    parser.add_argument("--tmp", default="8G")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--work", type=Path, help="where the drive's file is made; the present folder by default")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work or Path.cwd()) as name:
        folder = Path(name)
        kernel, modules = files_of(args.deb, folder / "deb")
        (busybox,) = (path for path in (folder / "deb").glob("**/bin/busybox") if path.is_file())
        archive = initramfs(folder, busybox, in_order(MODULES, modules), shlex.join(args.command))
        command = [
            "qemu-system-x86_64", "-nodefaults", "-nographic", "-no-reboot", "-serial", "mon:stdio", "-m", args.memory,
            "-smp", args.cpus, "-kernel", kernel, "-initrd", archive,
            "-append", "console=ttyS0 quiet panic=-1 no_timer_check psi=1 cgroup_no_v1=all",
            *(["-enable-kvm", "-cpu", "host"] if args.kvm else ["-accel", "tcg,thread=multi", "-cpu", "max"]),
            "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            "-drive", f"file={drive(folder, args.tmp)},if=virtio,format=raw,cache=none,aio=threads",
        ]  # fmt: skip
        with subprocess.Popen(
            ["timeout", str(60 * args.minutes), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=dies_with_parent(),
        ) as machine:
            code = 125
            assert machine.stdout is not None
            for line in machine.stdout:
                if ENDED in line:
                    code = int(line.split()[-1])
                else:
                    sys.stdout.write(line)
                    sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
