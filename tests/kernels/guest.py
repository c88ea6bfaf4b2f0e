"""A machine that boots a kernel, runs programs of this one in it, and is gone: qemu and an initramfs.

The initramfs has busybox, `ip` and `tc`, the programs and the shared libraries that they name, as they are here.
"""

import gzip
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "ip": "iproute2",
    "xz": "xz-utils",
}
MODULES = ("veth", "sch_ingress", "cls_bpf")
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
echo 0 > /proc/sys/kernel/printk
ip link set lo up
for module in /modules/*.ko; do insmod $module 2>/dev/null; done
echo "kernel $(uname -r)"
{commands}
echo "guest done"
reboot -f
"""


def missing() -> list[str]:
    """Debian packages that are needed here and are not installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [package for program, package in NEEDED.items() if not shutil.which(program, path=path)]


def libraries(program: Path) -> list[Path]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+)\s+\(0x", listed)]


def initramfs(programs: list[Path], modules: Path | None, commands: str, out: Path) -> None:
    """Write one that runs `commands`, in which programs are named as /bin/NAME."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for directory in ("bin", "proc", "sys", "dev", "tmp", "modules"):
            (root / directory).mkdir()
        shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
        tools = [Path(shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin") or tool) for tool in ("ip", "tc")]
        for program in (*programs, *tools):
            shutil.copy(program, root / "bin" / program.name)
            for library in libraries(program):
                place = root / library.relative_to("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, place)
        for module in MODULES:
            for found in modules.rglob(f"{module}.ko*") if modules else ():
                command = ["xz", "-dc", str(found)] if found.suffix == ".xz" else ["cat", str(found)]
                code = subprocess.run(command, check=True, capture_output=True).stdout
                (root / f"modules/{module}.ko").write_bytes(code)
        init = root / "init"
        init.write_text(INIT.replace("{commands}", commands))
        init.chmod(0o755)
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        pack = ["cpio", "-o", "-H", "newc", "--quiet"]
        packed = subprocess.run(pack, cwd=root, input=names.encode(), check=True, capture_output=True)
        out.write_bytes(gzip.compress(packed.stdout, 1))


def run(image: Path, initramfs: Path, timeout_s: float) -> str:
    """What its console says. Emulated: it boots in five seconds so, and /dev/kvm is not everywhere what it seems."""
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"]
    command += ["-kernel", str(image), "-initrd", str(initramfs)]
    command += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]
    command += ["-nographic", "-no-reboot", "-nic", "none", "-monitor", "none"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s)
        return (done.stdout + done.stderr).decode(errors="replace")
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode(errors="replace") + f"\nnot done within {timeout_s:.0f} s\n"
