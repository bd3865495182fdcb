"""START.md: what a learner reads first in a kit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_TEXT = """\
# Language models on your own machine, without a network

This folder is a kit: everything that the notebooks need. It is for

{targets}

Python itself is not in it. Below, KIT stands for the place of this folder, for example
`/media/ada/STICK/llama-kit` or `E:\\llama-kit`; if it has blanks, write it in "quotes". Open a
terminal in a folder of your own, and type three lines.

On Linux and macOS:

```
python3 -m zipfile -e KIT/suite.zip llama-notebooks
cd llama-notebooks
python3 -m helpers lab --kit KIT
```

On Windows:

```
py -m zipfile -e KIT\\suite.zip llama-notebooks
cd llama-notebooks
py -m helpers lab --kit KIT
```

The last line makes an environment in that folder, which takes a few minutes, and opens the first
notebook. From then on `python3 -m helpers lab` (on Windows `py -m helpers lab`) is enough; only the
further models below stay in the kit.

If your teacher serves the kit in the room, its address does for KIT in the last line, and
`suite.zip` comes from the page at that address.

## llama-cpp-python

{llama}

## Models

The small model of the notebooks, SmolLM2-135M-Instruct (Apache-2.0), is in the wheels.{models}

## What is not in this kit

{missing}

## If something is wrong

`python3 -m helpers kit --check KIT` (on Windows `py -m …`), in the folder llama-notebooks, names
each file that is missing or damaged.{site}

## 한국어

이 폴더에는 네트워크 없이 노트북을 실행하는 데 필요한 것이 모두 들어 있습니다. Python은 따로
설치되어 있어야 합니다. KIT는 이 폴더의 위치입니다. 터미널을 열고 위의 세 줄을 차례로 입력하세요.

1. `suite.zip`의 압축을 풉니다.
2. 풀린 폴더 `llama-notebooks`로 이동합니다.
3. `python3 -m helpers lab --kit KIT`(Windows에서는 `py -m helpers lab --kit KIT`)를 실행하면 환경을
   만들고 첫 번째 노트북을 엽니다. 몇 분 걸립니다.

다음부터는 `python3 -m helpers lab`(Windows에서는 `py -m helpers lab`)만 입력하면 됩니다.
"""


def start(manifest: Mapping[str, Any]) -> str:
    """Return START.md for a kit.

    Args:
        manifest: What is in its `kit.json`.
    """
    systems: dict[str, list[str]] = {}
    for row in manifest["targets"]:
        systems.setdefault(row["system"], []).append(row["python"])
    missing = lacking(manifest)
    missing += ["Wheels of llama-cpp-python for graphics cards (except Metal, on Macs)."]
    models = [
        f"`{m['name']}`: {m['mib']:,} MiB, licence: {m['licence']}." for m in manifest["models"]
    ]
    add = "\nTo use one of these in all notebooks, add `--model NAME` to the last line:\n\n"
    has_site = any(name.startswith("site/") for name in manifest["sizes"])
    return _TEXT.format(
        targets=_listed(f"{name}, Python {', '.join(its)}" for name, its in systems.items()),
        llama=_listed(f"{name}: {entry['note']}." for name, entry in manifest["llama"].items()),
        models=add + _listed(models) if models else "",
        missing=_listed(missing),
        site=" To read without Jupyter, open `site/index.html`." if has_site else "",
    )


def lacking(manifest: Mapping[str, Any]) -> list[str]:
    """Say what a kit should have for its systems and has not, because nobody offers it.

    Args:
        manifest: What is in its `kit.json`.
    """
    missing = [
        f"Python {row['python']} on {row['system']}: no wheels of {', '.join(row['missing'])}; "
        "the installation without a network will stop there."
        for row in manifest["targets"] if row["missing"]
    ]  # fmt: skip
    return missing + [
        f"{name}: a ready llama-cpp-python ({entry['note']})."
        for name, entry in manifest["llama"].items() if not entry["file"].endswith(".whl")
    ]  # fmt: skip


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
