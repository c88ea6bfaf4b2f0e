"""Kernels as Debian packages: looked up, downloaded and unpacked in a directory of one's own.

Never installs anything: apt-get is asked with a configuration of its own (`-c`), and for `update` and `download` only.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIRROR = "http://deb.debian.org"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES = [
    ("debian", "bullseye"),
    ("debian-security", "bullseye-security"),
    ("debian", "bookworm"),
    ("debian-security", "bookworm-security"),
    ("debian", "trixie"),
    ("debian-security", "trixie-security"),
    ("debian", "trixie-backports"),
]
KINDS = ("image", "binary", "modules")  # one package until 7.1, then three


@dataclass(frozen=True, slots=True)
class Kernel:
    name: str
    image: Path
    modules: Path | None  # the directory under which veth.ko is, if it is not built in


class Debian:
    """The archive, as far as kernels go. Raises FileNotFoundError where there is no apt-get or no Debian keyring."""

    def __init__(self, home: Path) -> None:
        if not KEYRING.exists():
            raise FileNotFoundError(f"{KEYRING}: Debian's kernels are had on Debian only; name images instead")
        self.home = home
        for part in ("state/lists/partial", "cache/archives/partial", "debs"):
            (home / part).mkdir(parents=True, exist_ok=True)
        sources = [f"deb [signed-by={KEYRING}] {MIRROR}/{archive} {suite} main\n" for archive, suite in SUITES]
        (home / "sources.list").write_text("".join(sources))
        self.settings = home / "apt.conf"
        self.settings.write_text(
            f'Dir::State "{home}/state";\nDir::State::status "/dev/null";\nDir::Cache "{home}/cache";\n'
            f'Dir::Etc::sourcelist "{home}/sources.list";\nDir::Etc::sourceparts "-";\nAPT::Sandbox::User "root";\n'
        )
        self._apt("apt-get", "update", "-qq")

    def _apt(self, program: str, *arguments: str) -> str:
        command = [program, "-c", str(self.settings), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=self.home / "debs").stdout

    def newest(self, branch: str) -> Kernel | None:
        """The newest kernel of a branch, such as 6.1; None if the archive has none."""
        pattern = rf"^linux-(image|binary|modules)-{re.escape(branch)}\.[0-9].*-cloud-amd64$"
        found = self._apt("apt-cache", "search", "--names-only", pattern).splitlines()
        names = [line.split(" - ")[0] for line in found if "-unsigned" not in line]
        # What was built for the release before is older than its number says.
        versions = {re.sub(r"^linux-[a-z]+-|-cloud-amd64$", "", name) for name in names if "deb11" not in name}
        if not versions:
            return None
        version = max(versions, key=lambda text: [int(number) for number in re.findall(r"\d+", text)])
        place = self.home / "debs" / version
        if not place.exists():
            wanted = [f"linux-{kind}-{version}-cloud-amd64" for kind in KINDS]
            self._apt("apt-get", "download", "-qq", *[name for name in wanted if name in names])
            for package in (self.home / "debs").glob(f"*{version}-cloud-amd64_*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, place], check=True)
                package.unlink()
        image = next(found for at in ("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz") for found in place.glob(at))
        return Kernel(f"Debian {version}", image, place)
