"""Putting a kit into a folder: all of it is known and measured before the first byte is copied."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psutil

from helpers.errors import InstallError, ModelFileError
from helpers.files import replace_text
from helpers.install.environment import MODEL_PIN, Project, fingerprint, read_project
from helpers.install.kit import FORMAT, MANIFEST, MIB, SUMS, sha256
from helpers.install.paths import REPOSITORY, cache_dir, lock, make_folder, need_space
from helpers.install.steps import ask, say
from helpers.kit import wheels
from helpers.kit.start import lacking, start
from helpers.kit.targets import SYSTEMS, Target, make_targets
from helpers.models import find_model, inspect_model
from helpers.models.catalogue import CATALOGUE
from helpers.models.formats import part_names

SITE = Path("docs") / "_build" / "html"
_FAT_BYTES = 2**32 - 1
_TARGET_MIB = 600
_RESERVE = 32 * MIB
_SKIPPED = (".git", ".venv", "_build", "build", "*cache*", "*.egg-info", ".ipynb_checkpoints")


def make(
    out: Path,
    systems: Sequence[str] = (),
    pythons: Sequence[str] = (),
    models: Sequence[str] = (),
    root: Path = REPOSITORY,
) -> int:
    """Make a kit, or make one again: what is in the folder and whole is not copied again.

    Args:
        out: The folder: new, empty, or a kit. Nothing in it is removed; what an earlier run put
            there and this one does not name is no longer part of the kit.
        systems: Names in `SYSTEMS`; none: this one.
        pythons: Versions such as "3.12"; none: this one.
        models: Further models, by any name that `find_model` knows.
        root: Folder of the clone.

    Raises:
        InstallError: If the folder is something else or has no room, or what this machine needs
            cannot be had.
    """
    out, targets = out.expanduser().resolve(), make_targets(systems, pythons)
    if out.exists() and not (out / MANIFEST).is_file() and (out.is_file() or any(out.iterdir())):
        raise InstallError(
            f"{out} is not empty and no kit: name a new folder in it, such as {out / 'llama-kit'}"
        )
    with lock(say) as hold:
        store = make_folder(cache_dir() / "kit-wheels", "what the kit is made from")
        need_space(store, _TARGET_MIB * len(targets), "Fetching the wheels")
        manifest, files = _wheels(targets, read_project(root), store, hold)
        manifest["models"] = _models(models, files)
        files["suite.zip"] = _zip_suite(root, store / "suite.zip")
        if not (root / SITE).is_dir():
            say("Without the site: python3 -m helpers site makes it, for the next run of this.")
        for path in filter(Path.is_file, (root / SITE).rglob("*")):
            files[f"site/{path.relative_to(root / SITE).as_posix()}"] = path
        manifest["sizes"] = {name: files[name].stat().st_size for name in sorted(files)}
        with suppress(OSError, ValueError, KeyError, TypeError):
            was = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
            if was == {**manifest, "made": was["made"]}:
                manifest = was  # nothing is new, and so its day neither
        for name, text in {MANIFEST: json.dumps(manifest), "START.md": start(manifest)}.items():
            files[name] = store / name
            files[name].write_bytes(text.encode())
    copy_all(out, files, {name: sha256(path) for name, path in files.items()})
    say(
        f"The kit is in {out}; its START.md says how it is used. To check it on another machine:\n"
        f'  python3 -m helpers kit --check "{out}"'
    )
    if missing := lacking(manifest):
        say("It is not enough for everybody; what nobody offers is not in it:")
        for line in missing:
            say(f"  {line}")
    return 0


def _wheels(
    targets: Sequence[Target], project: Project, store: Path, hold: int
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Bring the wheels of all targets; return the manifest so far, and the files."""
    pins, log = wheels.read_pins(project.constraints), cache_dir() / "logs" / "kit.log"
    files: dict[str, Path] = {}
    llama: dict[str, dict[str, str]] = {}
    rows = []
    for target in targets:
        if target.system not in llama:
            path, note = wheels.llama(target.system, project.version, cache_dir(), store, hold)
            say(f"llama-cpp-python for {target.system}: {note}")
            name = f"{'wheels' if path.suffix == '.whl' else 'source'}/{path.name}"
            backend = SYSTEMS[target.system].backend
            llama[target.system] = {"file": name, "note": note, "backend": backend}
            files[name] = path
        package = files[llama[target.system]["file"]]
        wanted = [*project.dependencies, *project.build_requires, *wheels.requires(package)]
        wanted += [] if package.suffix == ".whl" else wheels.BUILD_TOOLS
        found, missing = wheels.collect(target, wanted, pins, store, log)
        model, no_model = wheels.collect(target, [MODEL_PIN], {}, store, log, follow=False)
        missing = sorted(missing + no_model)
        if missing:
            say(f"For {target} there are no wheels of {', '.join(missing)}.")
        if missing and target.is_here:
            raise InstallError(f"the kit would not do for this machine: see {log}")
        here = {f"wheels/{path.name}": path for path in (found | model).values()}
        files |= here
        row = {"system": target.system, "python": target.python, "files": sorted(here)}
        rows.append({**row, "missing": missing})
    manifest = {"kit": FORMAT, "suite": project.own_version, "made": date.today().isoformat()}
    return {
        **manifest, "fingerprint": fingerprint(project.root), "targets": rows, "llama": llama,
    }, files  # fmt: skip


def _models(names: Sequence[str], files: dict[str, Path]) -> list[dict[str, Any]]:
    """Find further models, say what they are, and add their files."""
    entries = []
    for name in names:
        try:
            info = inspect_model(find_model(name))
        except ModelFileError as error:
            raise InstallError(str(error)) from error
        known = CATALOGUE.get(name.partition(":")[0].lower())
        licence = known.licence if known else info.metadata.get("general.license")
        # Ollama's files have no name that says what they are.
        plain = re.sub(r"[^\w.-]+", "-", name) + ".gguf"
        parts = {f"models/{part}": info.path.with_name(part) for part in part_names(info.path.name)}
        parts = parts if info.path.suffix else {f"models/{plain}": info.path}
        entry = {
            "name": Path(name).stem if Path(name).exists() else name, "files": list(parts),
            "licence": str(licence or "not in the file: ask its makers"),
            "mib": round(info.file_size / MIB),
        }  # fmt: skip
        say("Model {name}: {mib:,} MiB, licence: {licence}".format(**entry))
        files |= parts
        entries.append(entry)
    return entries


def _zip_suite(root: Path, target: Path) -> Path:
    """Pack the suite, without what is made from it; equal files give equal bytes."""
    listed = ask("git", "-C", str(root), "ls-files", "-z") if (root / ".git").exists() else None
    names = [name for name in (listed or "").split("\0") if name and (root / name).is_file()]
    if not names:  # unpacked from another kit, or downloaded without git
        for folder, folders, found in os.walk(root):
            folders[:] = [
                name for name in folders
                if not any(fnmatch(name, pattern) for pattern in _SKIPPED)
                and not (Path(folder) / name / MANIFEST).exists()
            ]  # fmt: skip
            names += [(Path(folder) / name).relative_to(root).as_posix() for name in found]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(names):
            entry = zipfile.ZipInfo(name)  # with a date that is always the same
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, (root / name).read_bytes())
    return target


def refuse_large(sizes: Mapping[str, int], file_system: str) -> None:
    """Check that a disk's file system takes files as large as these.

    Raises:
        InstallError: If it is FAT32 and one has 4 GiB or more.
    """
    large = [name for name, size in sizes.items() if size > _FAT_BYTES]
    if large and file_system.lower() in {"vfat", "msdos", "fat", "fat32"}:
        raise InstallError(
            f"{large[0]} has {sizes[large[0]] / 2**30:.1f} GiB, and the disk's file system "
            f"({file_system}) takes files below 4 GiB alone: format the stick as exFAT (that "
            "removes what is on it), or take a smaller quantization"
        )


def _file_system(out: Path) -> str:
    mounts = [disk for disk in psutil.disk_partitions(all=True) if disk.mountpoint]
    holding = [disk for disk in mounts if out.is_relative_to(disk.mountpoint)]
    return max(holding, key=lambda disk: len(disk.mountpoint)).fstype if holding else ""


def copy_all(out: Path, files: Mapping[str, Path], sums: Mapping[str, str]) -> None:
    """Copy what is not there yet; first the lists, so that a part of a kit knows what it lacks.

    Args:
        out: The kit's folder.
        files: All files, by their names in the kit.
        sums: Their SHA-256.

    Raises:
        InstallError: If the disk has no room for them, or takes no file so large.
    """
    sizes = {name: path.stat().st_size for name, path in files.items()}
    refuse_large(sizes, _file_system(out))
    absent = [
        name for name, size in sizes.items()
        if not ((out / name).is_file() and (out / name).stat().st_size == size
                and sha256(out / name) == sums[name])
    ]  # fmt: skip
    parts = Counter[str]()
    for name, size in sizes.items():
        parts[name.partition("/")[0]] += size
    for part, size in parts.most_common():
        say(f"  {size / MIB:8,.1f} MiB  {part}")
    need = sum(sizes[name] for name in absent)
    place = next(path for path in (out, *out.parents) if path.exists())
    free = shutil.disk_usage(place).free
    say(
        f"This is {sum(sizes.values()) / MIB:,.0f} MiB; of it {len(absent)} files, "
        f"{need / MIB:,.0f} MiB, are to be copied; {free / MIB:,.0f} MiB are free in {place}."
    )
    if need and free < need + _RESERVE:
        raise InstallError(
            f"{place} has no room for the kit: {(need + _RESERVE) / MIB:,.0f} MiB are needed, and "
            f"{free / MIB:,.0f} MiB are free. Take another disk, or fewer --systems or --models"
        )
    make_folder(out, "the kit")
    if MANIFEST in absent:
        absent.remove(MANIFEST)
        copy(files[MANIFEST], out / MANIFEST)
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    if not (out / SUMS).is_file() or (out / SUMS).read_text(encoding="utf-8") != lines:
        replace_text(out / SUMS, lines)
    done, told = 0, time.monotonic()
    for name in absent:
        copy(files[name], out / name)
        done += sizes[name]
        if time.monotonic() - told > 5:
            say(f"  {100 * done // need} %")
            told = time.monotonic()


def copy(source: Path, target: Path) -> None:
    """Copy a file under another name that becomes its own when all is on the disk.

    What an interrupted copy left of it is compared, and not copied again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.touch()
    with source.open("rb") as original, part.open("r+b") as new:
        while piece := original.read(MIB):
            place = new.tell()
            if new.read(len(piece)) != piece:
                new.seek(place)
                new.truncate()
                new.write(piece)
        new.truncate()
        new.flush()
        os.fsync(new.fileno())
    part.replace(target)
