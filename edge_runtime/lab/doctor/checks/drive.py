"""Where the bundle lies: reads of experts are only as fast as its drive and file system."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import Found, check
from edge_runtime.lab.doctor.storage import bundle_block, bundle_mount

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "virtiofs", "glusterfs", "afs")
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_NO_DIRECT = ("fuseblk", "ntfs", "ecryptfs", "zfs", "aufs", "squashfs")
_BUNDLE = "with a bundle"


@check(
    "bundle-in-image", "error", "a bundle inside a container's image",
    why="Overlay file systems copy and cache what is read, and the image grows by the model.",
    fix="docker run -v /mnt/nvme/bundle:/bundle:ro ... and name /bundle", where=_BUNDLE,
)  # fmt: skip
def bundle_in_image(device: Device) -> Iterator[Found]:
    """The bundle's file system is an overlay."""
    mount = bundle_mount(device)
    if mount and mount.kind in ("overlay", "fuse.fuse-overlayfs"):
        yield Found(f"{device.bundle} lies on an {mount.kind} of the container")


@check(
    "bundle-in-memory", "error", "a bundle on a file system in memory",
    why="Every expert then takes memory twice, and nothing is streamed.",
    fix="copy the bundle to the NVMe drive", where=_BUNDLE,
)  # fmt: skip
def bundle_in_memory(device: Device) -> Iterator[Found]:
    """The bundle lies on tmpfs."""
    mount = bundle_mount(device)
    if mount and mount.kind in _MEMORY:
        yield Found(f"{device.bundle} lies on {mount.kind} ({mount.point})")


@check(
    "bundle-on-network", "warning", "a bundle on a network file system",
    why="A miss waits for the network, and direct reads may be served from the server's memory or refused.",
    fix="copy the bundle to a local NVMe drive", where=_BUNDLE,
)  # fmt: skip
def bundle_on_network(device: Device) -> Iterator[Found]:
    """The bundle's file system is one of a server."""
    mount = bundle_mount(device)
    if mount and mount.kind in _NETWORK:
        yield Found(f"{device.bundle} lies on {mount.kind} ({mount.source})")


@check(
    "no-direct-reads", "warning", "a file system that reads through the page cache whatever is asked",
    why="The page cache then holds experts a second time and fights the expert cache for the same memory.",
    fix="copy the bundle to ext4, XFS, or btrfs without compression", where=_BUNDLE,
)  # fmt: skip
def no_direct_reads(device: Device) -> Iterator[Found]:
    """File systems that refuse or ignore O_DIRECT."""
    mount = bundle_mount(device)
    if mount is None:
        return
    compressed = [option for option in mount.options if option.startswith("compress")]
    if mount.kind in _NO_DIRECT:
        yield Found(f"{device.bundle} lies on {mount.kind}")
    elif mount.kind == "btrfs" and compressed:
        yield Found(f"{device.bundle} lies on btrfs with {compressed[0]}")


@check(
    "bundle-on-card", "warning", "a bundle on an SD card or eMMC",
    why="They read a tenth of what an NVMe drive does, or less.",
    fix="copy the bundle to an NVMe drive", where=_BUNDLE,
)  # fmt: skip
def bundle_on_card(device: Device) -> Iterator[Found]:
    """The drive is mmcblk."""
    block = bundle_block(device)
    if block and block.name.startswith("mmcblk"):
        yield Found(f"{device.bundle} lies on {block.name}")


@check(
    "bundle-on-usb", "warning", "a bundle on a USB drive",
    why="USB adds latency to every read and allows few at once; sticks slow down when warm.",
    fix="put the drive into the M.2 slot, or use an adapter with UAS", where=_BUNDLE,
)  # fmt: skip
def bundle_on_usb(device: Device) -> Iterator[Found]:
    """The drive hangs on a USB bus."""
    block = bundle_block(device)
    if block and any(part.startswith("usb") for part in block.parts):
        yield Found(f"{device.bundle} lies on {block.name}, behind USB")


@check(
    "bundle-on-disk", "warning", "a bundle on a disk that spins",
    why="Every expert is a seek of some 10 ms.",
    fix="copy the bundle to an SSD", where=_BUNDLE,
)  # fmt: skip
def bundle_on_disk(device: Device) -> Iterator[Found]:
    """The kernel calls the drive rotational; virtual drives are called so too, and passed over."""
    block = bundle_block(device)
    if block and device.number(block / "queue/rotational") == 1 and not block.name.startswith(("vd", "xvd", "mmcblk")):
        yield Found(f"{device.bundle} lies on {block.name}, which spins")


@check(
    "bundle-encrypted", "warning", "a bundle on an encrypted drive",
    why="Each byte of a miss is decrypted by the cores that compute.",
    fix="keep the bundle on a partition without encryption: weights are rarely secret", where=_BUNDLE,
)  # fmt: skip
def bundle_encrypted(device: Device) -> Iterator[Found]:
    """The block device is dm-crypt's."""
    block = bundle_block(device)
    if block and device.words(block / "dm/uuid").startswith("CRYPT-"):
        yield Found(f"{device.bundle} lies on {block.name}, which is encrypted")


@check(
    "io-scheduler", "warning", "an I/O scheduler in front of an NVMe drive",
    why="The drive orders its own queue; a scheduler serialises reads that are meant to run together.",
    fix="echo none | sudo tee /sys/block/nvme0n1/queue/scheduler", where="NVMe",
)  # fmt: skip
def io_scheduler(device: Device) -> Iterator[Found]:
    """The chosen scheduler of a drive is not none."""
    for path in device.glob("sys/block/nvme*/queue/scheduler"):
        chosen = device.chosen(path)
        if chosen and chosen != "none":
            name = path.parents[1].name
            yield Found(f"{name} uses {chosen}", f"echo none | sudo tee /sys/block/{name}/queue/scheduler")


@check(
    "io-uring-off", "warning", "io_uring switched off",
    why="Reads then need a thread each: more processor time for every expert.",
    fix="sudo sysctl -w kernel.io_uring_disabled=0; in Docker, --security-opt seccomp=unconfined",
)  # fmt: skip
def io_uring_off(device: Device) -> Iterator[Found]:
    """The kernel forbids it to everybody."""
    if device.number("proc/sys/kernel/io_uring_disabled") == 2:
        yield Found("kernel.io_uring_disabled is 2")
