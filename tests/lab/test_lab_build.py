"""The parts of the lab that need no emulated host: patch series, cache, configuration, packages."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from lab import cache, debian, kernel, modules, packages
from lab.errors import LabError
from lab.patches import PatchedTree, series, touched

ADD_LINE = """\
--- a/mm/file.c
+++ b/mm/file.c
@@ -1,3 +1,4 @@
 one
 two
+two and a half
 three
"""
NEW_FILE = """\
diff --git a/kvm/new.c b/kvm/new.c
new file mode 100644
--- /dev/null
+++ b/kvm/new.c
@@ -0,0 +1 @@
+new
"""
ON_TOP = """\
--- a/mm/file.c
+++ b/mm/file.c
@@ -2,3 +2,4 @@
 two
 two and a half
 three
+four
"""
WRONG = """\
--- a/mm/file.c
+++ b/mm/file.c
@@ -1,3 +1,4 @@
 one
 not there
+two and a half
 three
"""


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """An empty directory of patches."""
    folder = tmp_path / "patches"
    folder.mkdir()
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> PatchedTree:
    """A small source tree."""
    source = tmp_path / "source"
    (source / "mm").mkdir(parents=True)
    (source / "mm/file.c").write_text("one\ntwo\nthree\n")
    (source / "mm/other.c").write_text("other\n")
    return PatchedTree(source, tmp_path / "state")


def add(patches: Path, name: str, text: str) -> None:
    """Add a patch to a series."""
    (patches / name).write_text(text)


def test_series_is_applied_in_order(tree: PatchedTree, patches: Path) -> None:
    add(patches, "0002-b.patch", ON_TOP)
    add(patches, "0001-a.patch", ADD_LINE)
    assert tree.apply(series(patches)) == ["mm/file.c"]
    assert (tree.source / "mm/file.c").read_text() == "one\ntwo\ntwo and a half\nthree\nfour\n"


def test_changed_series_writes_only_what_differs(tree: PatchedTree, patches: Path) -> None:
    add(patches, "0001-a.patch", ADD_LINE)
    add(patches, "0002-new.patch", NEW_FILE)
    tree.apply(series(patches))
    before = (tree.source / "mm/file.c").stat().st_mtime_ns
    (patches / "0002-new.patch").unlink()
    assert tree.apply(series(patches)) == ["kvm/new.c"]
    assert (tree.source / "mm/file.c").stat().st_mtime_ns == before
    assert not (tree.source / "kvm/new.c").exists()


def test_empty_series_restores_the_originals(tree: PatchedTree, patches: Path) -> None:
    add(patches, "0001-a.patch", ADD_LINE)
    tree.apply(series(patches))
    assert tree.apply([]) == ["mm/file.c"]
    assert (tree.source / "mm/file.c").read_text() == "one\ntwo\nthree\n"


def test_interrupted_apply_is_put_right(tree: PatchedTree, patches: Path) -> None:
    add(patches, "0001-a.patch", ADD_LINE)
    tree.apply(series(patches))
    (tree.source / "mm/file.c").write_text("one\ntw")
    tree.apply(series(patches))
    assert "two and a half" in (tree.source / "mm/file.c").read_text()


def test_wrong_patch_is_named_with_its_reject(tree: PatchedTree, patches: Path) -> None:
    add(patches, "0001-fine.patch", NEW_FILE)
    add(patches, "0002-wrong.patch", WRONG)
    with pytest.raises(LabError) as caught:
        tree.apply(series(patches))
    text = str(caught.value)
    assert "0002-wrong.patch does not apply" in text
    assert "mm/file.c" in text and "+two and a half" in text and "not there" in text
    assert (tree.source / "mm/file.c").read_text() == "one\ntwo\nthree\n"
    assert not (tree.source / "kvm/new.c").exists()


def test_touched_sees_new_changed_and_moved_files(patches: Path) -> None:
    add(patches, "a.patch", ADD_LINE + NEW_FILE + "rename from x/old.c\nrename to y/new.c\n")
    assert touched(patches / "a.patch") == {"mm/file.c", "kvm/new.c", "x/old.c", "y/new.c"}


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vmm"


def test_cache_builds_once_for_concurrent_callers(private_cache: Path) -> None:
    built = []

    def build(into: Path) -> None:
        built.append(into)
        (into / "x").write_text("done")

    threads = [
        threading.Thread(target=cache.cached, args=("thing", {"a": 1}, build)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert (cache.cached("thing", {"a": 1}, build) / "x").read_text() == "done"


def test_waiting_for_another_build_is_said(
    private_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cache.locked("thing-0123456789abcdef"):
        waiter = threading.Thread(target=lambda: cache.locked("thing-0123456789abcdef").__enter__())
        waiter.start()
        waiter.join(0.2)
        assert waiter.is_alive()
    waiter.join()
    assert "waiting for another process that works on thing-" in capsys.readouterr().err


def test_failed_build_leaves_no_entry(private_cache: Path) -> None:
    def build(into: Path) -> None:
        (into / "half").write_text("")
        raise LabError("no")

    with pytest.raises(LabError):
        cache.cached("thing", 1, build)
    assert not [path for path in private_cache.iterdir() if path.is_dir()]


def test_killed_build_is_discarded(private_cache: Path) -> None:
    script = textwrap.dedent("""
        import os, pathlib, signal, sys
        sys.path.insert(0, sys.argv[1])
        from lab.cache import cached
        def build(into):
            (into / "half").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        cached("thing", 1, build)
    """)
    repository = str(Path(__file__).resolve().parents[2])
    assert subprocess.run([sys.executable, "-c", script, repository]).returncode == -9
    entry = cache.cached("thing", 1, lambda into: (into / "whole").write_text("") and None)
    assert [path.name for path in entry.iterdir()] == ["whole"]


def test_what_a_killed_build_left_goes_with_the_next_build(private_cache: Path) -> None:
    left = cache.cache_root() / "other-0123456789abcdef.tmp"
    left.mkdir()
    with cache.locked("busy-0123456789abcdef"):
        busy = cache.cache_root() / "busy-0123456789abcdef.tmp"
        busy.mkdir()
        cache.cached("thing", 1, lambda into: None)
        assert not left.exists() and busy.exists()


def test_config_option_that_was_dropped_is_found(tmp_path: Path) -> None:
    fragment, later, config = tmp_path / "a", tmp_path / "b", tmp_path / "config"
    fragment.write_text('CONFIG_KVM=y\nCONFIG_KSM=y\nCONFIG_NAME="x"\n')
    later.write_text('CONFIG_NAME="y"\n')
    config.write_text('CONFIG_KVM=y\n# CONFIG_KSM is not set\nCONFIG_NAME="y"\n')
    assert kernel.missing_options([fragment, later], config) == ["CONFIG_KSM=y"]


def test_package_alternatives_take_the_first_available() -> None:
    assert packages.choose("a1 | a2 | a3", {"a2", "a3"}) == "a2"
    with pytest.raises(LabError, match="a1 | a2"):
        packages.choose("a1 | a2", {"b"})


def test_absolute_links_stay_within_the_root(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libz.so.1").write_text("z")
    (tmp_path / "usr/lib/libz.so").symlink_to("/lib/libz.so.1")
    debian.relative_links(tmp_path)
    assert (tmp_path / "usr/lib/libz.so").read_text() == "z"


def test_modules_come_after_their_dependencies(tmp_path: Path) -> None:
    base = tmp_path / "lib/modules/6.12"
    base.mkdir(parents=True)
    for name in ("virtio_net", "net_failover", "failover"):
        (base / f"{name}.ko").write_text(name)
    (base / "modules.dep").write_text(
        "virtio_net.ko: net_failover.ko failover.ko\nnet_failover.ko: failover.ko\nfailover.ko:\n"
    )
    (base / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")
    found = modules.module_files(tmp_path, "6.12", ["virtio", "virtio-net"])
    assert [name for name, _ in found] == ["failover.ko", "net_failover.ko", "virtio_net.ko"]
    with pytest.raises(LabError, match="no module nosuch"):
        modules.module_files(tmp_path, "6.12", ["nosuch"])
