# SPDX-License-Identifier: MIT
"""Checks of all files that a command will write, before it writes the first: no user's file is lost."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

from crfrnn.io.collisions import Folders, check_apart, check_inputs, folded, ignores_case
from crfrnn.io.collisions import Item as Item
from crfrnn.io.files import FileError, PathLike, check_name, new_folder, writable_folder
from crfrnn.io.manifest import MANIFEST, Entry, Manifest, Run, digest, identity, locked, stamp
from crfrnn.io.temporary import sweep

ANEW = "name another, or pass --overwrite"
_FEW = 8


class Outputs:
    """The result of `claim`: which items are already finished."""

    def __init__(self, done: Iterable[Item]) -> None:
        self._done = set(done)

    def finished(self, item: Item) -> bool:
        """Whether an earlier run with the same settings made this item from the same files."""
        return item in self._done


@contextmanager
def claim(
    folder: PathLike,
    command: str,
    settings: Mapping[str, Any],
    items: Sequence[Item],
    *,
    inputs: Iterable[PathLike] = (),
    whole: bool = True,
    resume: bool = False,
    replace: bool = True,
    overwrite: bool = False,
    again: Collection[Item] = (),
    identify: Callable[[Path], str] = identity,
    role: str = "-o",
) -> Iterator[Outputs]:
    """Reject outputs that would lose a file; otherwise create `folder` and record the run in its manifest.

    The manifest is ``.crfrnn.json``. Checked before anything is written: every output has a unique, valid
    name; none is an input, by another name or link either; none exists already unless this program wrote it
    and it is unchanged since; and an existing file in a folder of results came from the same sources.
    `overwrite` permits the last two.

    Args:
        folder: contains all outputs, possibly in subfolders.
        command: the command's name.
        settings: the settings that results depend on, as JSON; a `Path` stands for the content of that file
        or folder.
        items: the work to be done.
        inputs: further files that are read.
        whole: the folder belongs to the command, and results of different settings are not mixed in it.
        False for a file in a folder that holds other things.
        resume: finished items are kept; they must come from these settings and sources.
        replace: results of other settings may be replaced; False for those that took hours.
        overwrite: replace any existing file except inputs.
        again: items that do not count as finished.
        identify: function from a source to 16 digits that identify its content.
        role: the caller's name for the folder, for messages.

    After an exception, folders that were created and are still empty are removed.

    Raises: FileError, naming one file and the number of others.
    """
    place = Path(folder)
    parents = [place, *{file.parent for item in items for file in item.files}]
    made = [above for parent in parents for above in (parent, *parent.parents) if not above.exists()]
    try:
        with _claimed(
            place,
            Run(command, settings, whole),
            items,
            inputs,
            resume,
            replace,
            overwrite,
            again,
            identify,
            role,
        ) as found:
            yield found
    except BaseException:
        for empty in sorted(made, key=lambda path: -len(path.parts)):
            with suppress(OSError):
                empty.rmdir()
        raise


@contextmanager
def _claimed(
    place: Path, run: Run, items: Sequence[Item], inputs: Iterable[PathLike], resume: bool, replace: bool,
    overwrite: bool, again: Collection[Item], identify: Callable[[Path], str], role: str,
) -> Iterator[Outputs]:  # fmt: skip
    for item in items:
        for file in item.files:
            check_name(file)
            if file.name == MANIFEST:
                raise FileError(role, file, "another name", "that of the list of results", "name another")
            if file.is_dir():
                raise FileError(role, file, "the name of a file", "a folder", "name another")
    folders = Folders(place)
    check_apart(items, role, folders.place)
    check_inputs(items, inputs, role, folders)
    writable_folder(place, role)
    if ignores_case(place):
        check_apart(items, role, lambda file: folded(folders.place(file)))
    sweep(place)
    run = Run(run.command, {name: _settled(value) for name, value in run.settings.items()}, run.whole)
    sources = {item: _together([identify(source) for source in item.sources]) for item in items}
    with locked(place):
        manifest = Manifest(place) if overwrite and _broken(place) else Manifest.read(place)
        done = _check_present(manifest, run, sources, folders, resume, replace, overwrite, again, role)
        mine = _enter(manifest, run, {item: sources[item] for item in items if item not in done}, folders)
    for parent in {file.parent for item in items for file in item.files}:
        new_folder(parent, role)
    try:
        yield Outputs(done)
    finally:
        _settle(place, mine)


def result_names(pictures: Sequence[Path], base: PathLike | None = None) -> list[Path]:
    """A name under the output folder for each picture, without ending.

    The name is the picture's stem, preceded by its folders below `base`. By default there are none, unless
    two pictures would get the same name: then the folders below their common folder are used.

    >>> [p.as_posix() for p in result_names([Path("in/a/1.jpg"), Path("in/b/2.jpg")])]
    ['1', '2']
    >>> [p.as_posix() for p in result_names([Path("in/a/1.jpg"), Path("in/b/1.jpg")])]
    ['a/1', 'b/1']
    """
    stems = [Path(picture.stem) for picture in pictures]
    parents = [os.path.abspath(picture.parent) for picture in pictures]
    if base is not None:
        base = os.path.commonpath([os.path.abspath(base), *parents])
        return [Path(os.path.relpath(p, base)) / stem for p, stem in zip(parents, stems, strict=True)]
    homes = {(picture.stem, os.path.abspath(picture.parent)) for picture in pictures}
    if max(Counter(stem for stem, _ in homes).values(), default=1) == 1:
        return stems
    return result_names(pictures, os.path.commonpath(parents))


def without_results(pictures: Iterable[Path]) -> list[Path]:
    """Leave out the pictures that the manifest of their folder, or of one above it, lists as results."""
    known: dict[Path, Manifest] = {}

    def result(path: Path) -> bool:
        for above in Path(os.path.abspath(path)).parents:
            if above not in known:
                known[above] = Manifest(above) if _broken(above) else Manifest.read(above)
            files = known[above].files
            if files and known[above].own(Path(os.path.abspath(path)).relative_to(above).as_posix()):
                return True
        return False

    return [path for path in pictures if not result(path)]


def _check_present(
    manifest: Manifest, run: Run, sources: Mapping[Item, str], folders: Folders, resume: bool, replace: bool,
    overwrite: bool, again: Collection[Item], role: str,
) -> set[Item]:  # fmt: skip
    """The finished items; FileError for files that must not be replaced or would be mixed with others."""
    done: set[Item] = set()
    strange: list[str] = []
    planned: set[str] = set()
    for item, source in sources.items():
        names = [folders.name(file) for file in item.files]
        planned.update(names)
        kept = resume and not overwrite and item not in again
        if kept and all(_made(manifest, name, run, source) for name in names):
            done.add(item)
            continue
        for name in names if not overwrite else ():
            if stamp(manifest.folder / name) is None:
                continue
            entry = manifest.own(name)
            if entry is None:
                strange.append(name)
            elif entry.sources != source or entry.run != run.name:
                other = manifest.runs.get(entry.run)
                # A single file that this command wrote before may be replaced, even for another picture.
                alike = (
                    other is not None
                    and other.command == run.command
                    and (entry.sources == source or not (run.whole or other.whole))
                )
                if resume or not replace or not alike:
                    raise _of_another_run(manifest, name, other, run, role)
    if strange:
        more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
        raise FileError(
            role, manifest.folder / strange[0], "the name of a new file",
            f"one that exists and that this program did not write, or that was changed since{more}", ANEW,
        )  # fmt: skip
    for name, entry in manifest.files.items() if run.whole and not overwrite else ():
        other = manifest.runs.get(entry.run)
        mixed = other and other.whole and other.command == run.command and entry.run != run.name
        if mixed and name not in planned and manifest.own(name):
            raise _of_another_run(manifest, name, other, run, role)
    return done


def _made(manifest: Manifest, name: str, run: Run, source: str) -> bool:
    """Whether a file is a result of this run, even if edited by hand since."""
    entry, now = manifest.files.get(name), stamp(manifest.folder / name)
    if entry is None or now is None or now[0] == 0 or entry.replaced == now:
        return False
    return entry.run == run.name and entry.sources == source


def check_new(folder: PathLike, names: Iterable[str], role: str, record: str) -> None:
    """FileError if a folder has files of these names but no `record` of the run that wrote them."""
    found = [name for name in names if os.path.lexists(Path(folder) / name)]
    if found and not os.path.lexists(Path(folder) / record):
        raise FileError(
            role, folder, "a new folder, or one that this command started",
            f"one with {found[0]!r} from elsewhere", "name another",
        )  # fmt: skip


def _of_another_run(manifest: Manifest, name: str, before: Run | None, run: Run, role: str) -> FileError:
    if before is None or before.name == run.name:
        expected, got = "results of the same inputs", f"{name!r}, made from other inputs of that name"
    elif before.command != run.command:
        expected, got = f"no results of another command than {run.command}", f"{name!r} of {before.command}"
    else:
        was, now = _flat(before.settings), _flat(run.settings)
        differ = [key for key in sorted({*was, *now}) if was.get(key) != now.get(key)]
        said = ", ".join(f"{key} {_said(was.get(key))} (now {_said(now.get(key))})" for key in differ)
        expected, got = "a folder started with the same settings", f"one with {name!r} of {said}"
    return FileError(role, manifest.folder, expected, got, ANEW)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested settings to dotted names such as ``recipe.iterations``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{name}": inner for name, inner in _flat(value).items()})
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value  # as JSON returns it
    return flat


def _said(setting: object) -> str:
    if setting is None:
        return "not given"
    return str(setting) if not isinstance(setting, bool) else "on" if setting else "off"


def _enter(manifest: Manifest, run: Run, sources: Mapping[Item, str], folders: Folders) -> dict[str, Entry]:
    """Record the files of a run before the first is written."""
    mine: dict[str, Entry] = {}
    for item, source in sources.items():
        for name in map(folders.name, item.files):
            now = stamp(manifest.folder / name)
            before = manifest.own(name) if now else None
            mine[name] = Entry(
                run.name, source, replaced=now, before=before and changed(before, before=None, replaced=None)
            )
    if mine:
        manifest.runs[run.name] = run
        manifest.files.update(mine)
        manifest.write()
    return mine


def _settle(folder: Path, mine: Mapping[str, Entry]) -> None:
    """Record the finished files, and drop the entries of those that were not written."""
    with suppress(OSError, FileError), locked(folder):
        manifest = Manifest.read(folder)
        for name, entry in mine.items():
            now = stamp(folder / name)
            if manifest.files.get(name) != entry:  # another run has claimed it since
                continue
            if now is None or now == entry.replaced:
                del manifest.files[name]
                if now is not None and entry.before is not None:
                    manifest.files[name] = entry.before
            else:
                content = identity(folder / name)
                manifest.files[name] = changed(entry, stamp=now, content=content, replaced=None, before=None)
        manifest.write()


def _together(identities: Sequence[str]) -> str:
    """One short digest for all sources of an item."""
    joined = "-".join(one[:8] for one in identities)
    return joined if len(identities) <= _FEW else digest(joined.encode())


def _settled(value: Any) -> Any:
    if isinstance(value, Path):
        return f"content {identity(value)}"
    return [_settled(one) for one in value] if isinstance(value, list | tuple) else value


def _broken(folder: Path) -> bool:
    try:
        Manifest.read(folder)
    except FileError:
        return True
    return False
