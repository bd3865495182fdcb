"""`python -m helpers serve`: one model for a class."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

from helpers.errors import HelpersError
from helpers.load_options import check_option
from helpers.models import find_model
from helpers.serve.keys import KeyFile, add_keys, remove_keys
from helpers.serve.settings import KeyLimits, ServeSettings

_DEFAULTS = ServeSettings()

_EPILOG = """\
keys:
  python -m helpers serve keys add NAME… --keys FILE [--teacher] [--in-flight N]
                                         [--tokens-per-minute N]
      make keys and print them once; the file keeps their hashes alone
  python -m helpers serve keys list --keys FILE
  python -m helpers serve keys remove NAME… --keys FILE
      a running server notices at once

for a class on your network:
  python -m helpers serve keys add teacher --teacher --keys keys.txt
  python -m helpers serve keys add ada grace alan --keys keys.txt
  python -m helpers serve --host 0.0.0.0 --keys keys.txt
"""


def main(argv: Sequence[str]) -> int:
    """Serve, or look after the keys.

    Args:
        argv: Arguments after `serve`.

    Returns:
        The exit status: 0, or 2 for what cannot be done.
    """
    try:
        if argv and argv[0] == "keys":
            return _keys(argv[1:])
        return _serve(argv)
    except (HelpersError, ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _serve(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    settings = ServeSettings(
        model=arguments.model,
        embeddings=arguments.embeddings,
        host=arguments.host,
        port=arguments.port,
        prefix=arguments.prefix,
        keys=arguments.keys,
        n_parallel=arguments.parallel,
        queue=arguments.queue,
        n_ctx=arguments.n_ctx,
        n_gpu_layers=_layers(arguments.n_gpu_layers),
        n_threads=arguments.threads,
        load={} if arguments.speculate is None else {"speculate": arguments.speculate},
        limits=KeyLimits(
            in_flight=arguments.in_flight, tokens_per_minute=arguments.tokens_per_minute
        ),
        request_s=arguments.timeout,
        grace_s=arguments.grace,
    )
    owners = [] if settings.keys is None else KeyFile(settings.keys).read()
    if settings.keys is not None and not owners:
        raise HelpersError(
            f"{settings.keys} has no keys. Make some: python -m helpers serve keys add NAME… "
            f"--keys {settings.keys}"
        )
    # What the engine notes goes to who asked; a warning here would reach nobody.
    warnings.simplefilter("ignore")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if arguments.ready:  # from now on: a load may take long, and its end be wanted sooner
        threading.Thread(target=_end_with_input, daemon=True).start()
    if arguments.cluster is not None:
        from helpers.serve.cluster import run_cluster  # Ray: one machine does without
        from helpers.serve.served import name_of

        def tell_cluster(url: str) -> None:
            if arguments.ready:
                model = name_of(find_model(settings.model))
                print(json.dumps({"url": url, "model": model}), flush=True)
            else:
                print(f"Serving on {url}/v1. Ctrl-C lets running answers finish and stops.")

        return run_cluster(
            settings, arguments.cluster or None, replicas=arguments.replicas, tell=tell_cluster
        )
    from helpers.serve.running import bound_socket, run  # uvicorn: `keys` does without

    bound = bound_socket(settings)
    print(f"Loading {settings.model} …", file=sys.stderr, flush=True)
    from helpers.serve.app import make_app

    app = make_app(settings)
    host, port = bound.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def tell() -> None:
        if arguments.ready:  # whoever started this waits for a line to read
            print(json.dumps({"url": url, "model": app.state.house.served.name}), flush=True)
        else:
            from helpers.serve.greeting import greeting

            print(greeting(app.state.house, url, owners), flush=True)

    run(app, settings, bound, tell)
    return 0


def _replicas(given: str) -> tuple[int, int]:
    fewest, _, most = given.partition(":")
    return int(fewest), int(most or fewest)


def _layers(given: str) -> int | str:
    try:
        return int(given)
    except ValueError:
        found: int | str = check_option("n_gpu_layers", given)  # "auto", or the error that says so
        return found


def _end_with_input() -> None:
    """End the server when nobody holds the other end of its input any more."""
    while os.read(0, 4096):  # not sys.stdin, whose lock Python wants at its end
        pass
    signal.raise_signal(signal.SIGTERM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers serve",
        description="Serve one model to many, by OpenAI's protocol: for ChatLlamaCpp(server=…), "
        "for `openai`, and for anything else that speaks it. With a page for the teacher.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--model",
        default="default",
        metavar="NAME",
        help="a GGUF file, or any name that find_model knows (default: the embedded small model)",
    )
    add(
        "--embeddings",
        metavar="NAME",
        help="a model of its own for /v1/embeddings (default: the same, loaded when asked for)",
    )
    add(
        "--host",
        default=_DEFAULTS.host,
        help="address to listen on (127.0.0.1: this machine alone); others need --keys",
    )
    add("--port", type=int, default=_DEFAULTS.port, help="port (8000); 0: a free one")
    add("--prefix", default="", metavar="PATH", help="path under which a proxy leads here")
    add("--keys", metavar="FILE", help="who may ask; see below")
    add(
        "--parallel",
        type=int,
        default=_DEFAULTS.n_parallel,
        metavar="N",
        help=f"answers computed side by side ({_DEFAULTS.n_parallel})",
    )
    add(
        "--queue",
        type=int,
        default=_DEFAULTS.queue,
        metavar="N",
        help=f"answers that may wait beside them ({_DEFAULTS.queue})",
    )
    add(
        "--n-ctx",
        type=int,
        metavar="N",
        help="tokens of context for each answer (4096, or the model's own if smaller)",
    )
    add(
        "--n-gpu-layers",
        default="auto",
        metavar="N",
        help="layers on devices: auto (what fits), -1 all, 0 none",
    )
    add("--threads", type=int, metavar="N", help="compute threads (the physical cores)")
    add(
        "--speculate",
        metavar="HOW",
        help="guess tokens while one answer is computed alone: lookup, or a draft model's file",
    )
    add(
        "--in-flight",
        type=int,
        default=KeyLimits.in_flight,
        metavar="N",
        help=f"answers at a time for each key ({KeyLimits.in_flight})",
    )
    add(
        "--tokens-per-minute",
        type=int,
        default=KeyLimits.tokens_per_minute,
        metavar="N",
        help=f"tokens for each key, prompts and answers ({KeyLimits.tokens_per_minute:,})",
    )
    add(
        "--timeout",
        type=float,
        default=_DEFAULTS.request_s,
        metavar="S",
        help=f"longest time for an answer, its wait included ({_DEFAULTS.request_s:g} s)",
    )
    add(
        "--grace",
        type=float,
        default=_DEFAULTS.grace_s,
        metavar="S",
        help=f"how long running answers may go on at the end ({_DEFAULTS.grace_s:g} s)",
    )
    add(
        "--cluster",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="serve on all machines of a Ray cluster (default: the one that runs here, or a new "
        'one of this machine alone; "local": a new one in any case)',
    )
    add(
        "--replicas",
        type=_replicas,
        metavar="MIN:MAX",
        help="with --cluster: how many machines answer (default: all at first, one when idle)",
    )
    add("--ready", action="store_true", help=argparse.SUPPRESS)
    return parser  # fmt: skip


def _keys(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m helpers serve keys", description="Look after the file of keys."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, help_text in (
        ("add", "make keys, which are printed once"),
        ("list", "who has a key"),
        ("remove", "end keys"),
    ):
        one = verbs.add_parser(verb, help=help_text)
        one.add_argument("--keys", required=True, metavar="FILE", help="the file of keys")
        if verb != "list":
            one.add_argument("names", nargs="+", metavar="NAME", help="whose key")
        if verb == "add":
            one.add_argument("--teacher", action="store_true", help="may see the teacher's page")
            one.add_argument("--in-flight", type=int, metavar="N", help="answers at a time")
            one.add_argument("--tokens-per-minute", type=int, metavar="N", help="tokens")
    arguments = parser.parse_args(argv)
    path = Path(arguments.keys).expanduser()
    if arguments.verb == "add":
        given = {
            name: value
            for name in ("in_flight", "tokens_per_minute")
            if (value := getattr(arguments, name)) is not None
        }
        limits = KeyLimits(**given) if given else None
        made = add_keys(path, arguments.names, limits=limits, teacher=arguments.teacher)
        width = max(map(len, made))
        for name, secret in made.items():
            print(f"{name:{width}}  {secret}")
        print(f"Written to {path} as hashes: nobody can show these keys again.", file=sys.stderr)
    elif arguments.verb == "remove":
        remove_keys(path, arguments.names)
        print(f"Removed: {', '.join(arguments.names)}")
    else:
        for key in KeyFile(path).read():
            name, _, *rest = key.line().split()
            print(" ".join([name, *rest]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
