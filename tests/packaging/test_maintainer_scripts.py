"""Scripts of the Debian package where they refuse, and what they start again: dpkg, systemd and places are pretended."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from conftest import REPO

PLACE = re.compile(r"(?<![\w$}/.])(/(?:opt|etc|run|var)/)")
SYSTEMCTL = """#!/bin/sh
case "$1" in
  is-active)
    for unit; do :; done
    if [ "$2" = --quiet ]; then [ -e $ROOT/active/$unit ]; exit; fi
    if [ -e $ROOT/active/$unit ]; then echo active; else echo inactive; exit 3; fi ;;
  start) touch $ROOT/active/$2 ;;
esac
"""
INVOKE = """#!/bin/sh
if [ "$1" = stop ]; then shift; for unit; do rm -f $ROOT/active/$unit; done; else echo "$*" >>$ROOT/invoked; fi
"""


@pytest.fixture
def scripts(tmp_path):
    """Run a script of the package, with a root of its own."""
    for folder in ("bin", "opt", "etc/systemd/system", "etc/hobbit-edge", "run/systemd/system", "active"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/hobbit-edge/hobbit.env").write_text("")
    nothing = ("chown", "deb-systemd-helper", "systemd-sysusers", "systemd-tmpfiles", "getent", "userdel", "groupdel")
    for name, text in {
        "systemctl": SYSTEMCTL,
        "deb-systemd-invoke": INVOKE,
        **dict.fromkeys(nothing, "#!/bin/sh\n"),
    }.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(name, *words):
        text = PLACE.sub(rf"{tmp_path}\1", (REPO / "deploy/debian/hobbit-edge" / name).read_text())
        environ = {**os.environ, "PATH": f"{tmp_path}/bin:/usr/bin:/bin", "ROOT": str(tmp_path)}
        done = subprocess.run(
            ["sh", "-c", text, name, *words], capture_output=True, text=True, check=False, env=environ
        )
        return done.returncode, done.stdout + done.stderr

    return run


def active(root):
    return sorted(path.name for path in (root / "active").iterdir())


@pytest.mark.parametrize("what", ["folder", "link"])
def test_an_environment_made_by_hand_is_not_written_over(scripts, tmp_path, what):
    env = tmp_path / ("opt/hobbit-edge" if what == "folder" else "opt/mine")
    (env / "bin").mkdir(parents=True)
    (env / "bin/activate").write_text("")
    if what == "link":
        (tmp_path / "opt/hobbit-edge").symlink_to(env)
    code, said = scripts("preinst", "install")
    assert code == 1
    assert "an environment that is not this package's" in said
    assert "mv /opt/hobbit-edge" in said.replace(str(tmp_path), "")
    assert scripts("preinst", "upgrade", "0.1")[0] == 0


def test_an_installation_by_the_installer_is_refused(scripts, tmp_path):
    (tmp_path / "etc/systemd/system/hobbit.service").write_text("")
    code, said = scripts("preinst", "install")
    assert code == 1
    assert "sudo deploy/uninstall.sh" in said


def test_files_left_by_an_installation_that_was_cut_off_do_not_stop_the_next(scripts, tmp_path):
    """dpkg calls preinst the same way then; what lies there is the package's."""
    (tmp_path / "opt/hobbit-edge/bin").mkdir(parents=True)
    (tmp_path / "opt/hobbit-edge/pyvenv.cfg").write_text("")
    assert scripts("preinst", "install")[0] == 0


@pytest.mark.parametrize("after", [("configure", "0.1"), ("abort-upgrade", "0.2")])
@pytest.mark.parametrize("ran", [[], ["hobbit.service"], ["hobbit.service", "hobbit.socket"]])
def test_what_ran_is_stopped_for_an_upgrade_and_started_again(scripts, tmp_path, ran, after):
    for unit in ran:
        (tmp_path / "active" / unit).touch()
    assert scripts("prerm", "upgrade", "0.2") == (0, "")
    assert active(tmp_path) == []
    assert scripts("postinst", *after)[0] == 0
    assert active(tmp_path) == ran
    assert not (tmp_path / "run/hobbit-edge.ran").exists()
    assert not (tmp_path / "invoked").exists()


def test_a_service_that_an_older_package_left_running_is_restarted(scripts, tmp_path):
    (tmp_path / "active/hobbit.service").touch()
    assert scripts("postinst", "configure", "0.1")[0] == 0
    assert (tmp_path / "invoked").read_text() == "restart hobbit.service\n"


def test_purging_leaves_what_the_installer_has_installed_since(scripts, tmp_path):
    """Removed, then installed anew by deploy/install.sh, then purged: the settings are of what runs now."""
    bundle = tmp_path / "var/lib/hobbit-edge/bundle"
    bundle.mkdir(parents=True)
    (tmp_path / "etc/systemd/system/hobbit.service").write_text("[Service]")
    code, said = scripts("postrm", "purge")
    assert (code, "deploy/install.sh has installed the service since" in said) == (0, True)
    assert bundle.exists()
    assert (tmp_path / "etc/hobbit-edge/hobbit.env").exists()
    (tmp_path / "etc/systemd/system/hobbit.service").unlink()
    assert scripts("postrm", "purge")[0] == 0
    assert not (tmp_path / "var/lib/hobbit-edge").exists()
    assert not (tmp_path / "etc/hobbit-edge").exists()


def test_settings_that_were_deleted_do_not_stop_an_installation(scripts, tmp_path):
    (tmp_path / "etc/hobbit-edge/hobbit.env").unlink()
    code, said = scripts("postinst", "configure")
    assert (code, "no bundle at" in said) == (0, True), said


@pytest.mark.parametrize("script", sorted((REPO / "deploy/debian").glob("*/p*")), ids=lambda path: path.name)
def test_no_line_begins_with_systemctl(script):
    """Lintian takes it for a unit that is started past deb-systemd-invoke, and refuses the package; it runs for minutes."""
    lines = script.read_text().splitlines()
    assert [line for line in lines if re.match(r"\s*systemctl\b", line) and "daemon-reload" not in line] == []
