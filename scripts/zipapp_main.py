# Every Python has to understand this file, 2.7 included.
# ruff: noqa: UP031, UP036, RUF005, RET503
"""The zipapp's __main__: scripts/make_zipapp.py fills in the names in capitals below.

It says in one line what is wrong where it cannot run, starts the unpacked program directly when it
is there, and leaves unpacking to shiv's own bootstrap.
"""

import os
import signal
import sys

NAME = "llamaswap"
ENTRY_POINT = "llamaswap.cli"
BUILD_ID = "@BUILD_ID@"
# Suffixes of the compiled modules inside, one for each Python they were made for.
SUFFIXES = ()  # @SUFFIXES@
VERSIONS = "@VERSIONS@"
PLATFORM = "@PLATFORM@"
# Set while a damaged copy is being unpacked again, so that this is tried only once.
AGAIN = "LLAMASWAP_UNPACKING_AGAIN"


def fail(message):
    sys.stderr.write(NAME + ": " + message + "\n")
    sys.exit(1)


def here():
    return os.path.realpath(sys.argv[0])


def check_interpreter():
    running = "%s %d.%d.%d" % ((sys.executable or "this Python",) + tuple(sys.version_info[:3]))
    if sys.version_info < (3, 11):
        fail(
            "needs Python 3.11 or newer, but %s is running it; start it with a newer one: python3.11 %s"
            % (running, sys.argv[0])
        )
    from importlib.machinery import EXTENSION_SUFFIXES

    if SUFFIXES and not any(suffix in EXTENSION_SUFFIXES for suffix in SUFFIXES):
        fail(
            "this file was built for Python %s on %s, but %s is running it; start it with one of those, "
            "or build it again with this Python: build_zipapp.sh" % (VERSIONS, PLATFORM, running)
        )


def cache():
    """Where shiv unpacks to; the same rule as its bootstrap."""
    root = os.environ.get("SHIV_ROOT")
    if not root:
        home = os.path.expanduser("~")
        if home == "~":
            fail("there is no home directory; set SHIV_ROOT to a directory that can be written")
        root = os.path.join(home, ".shiv")
    elif root.startswith("$"):
        root = os.environ.get(root[1:], root[1:])
    root = os.path.abspath(os.path.expanduser(root))
    return root, os.path.join(root, os.path.basename(here()) + "_" + BUILD_ID)


def keep_out_strangers():
    """Leaves the standard library and this file on sys.path: the program runs with what it carries,
    whatever PYTHONPATH or this Python's site-packages hold. Its models' environment stays as it is."""
    library = os.path.dirname(os.path.abspath(os.__file__))
    own = (library, os.path.join(library, "lib-dynload"))
    frozen = "python%d%d.zip" % sys.version_info[:2]
    sys.path[1:] = [p for p in sys.path[1:] if os.path.abspath(p) in own or os.path.basename(p) == frozen]


def check_lock(root, unpacked):
    """Shiv waits for ever for a lock on a file system that has none."""
    import errno
    import fcntl

    os.makedirs(root, exist_ok=True)
    lock = os.open(os.path.join(root, "." + os.path.basename(unpacked) + "_lock"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
    finally:
        os.close(lock)


def unpack(root, unpacked):
    import errno
    import zipfile

    import _bootstrap
    from _bootstrap.environment import Environment

    try:
        check_lock(root, unpacked)
        with zipfile.ZipFile(here()) as archive:
            env = Environment.from_json(archive.read("environment.json").decode())
            _bootstrap.extract_site_packages(
                archive, _bootstrap.Path(unpacked), env.compile_pyc, env.compile_workers, env.force_extract
            )
    except (OSError, _bootstrap.shutil.Error) as error:
        what = "that can be written"
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            what = "with more room"
        reason = getattr(error, "strerror", None) or error
        fail("cannot unpack into %s: %s; set SHIV_ROOT to a directory %s" % (root, reason, what))
    except (zipfile.BadZipFile, zipfile.zlib.error, EOFError) as error:
        fail("%s is damaged (%s); get or build it again" % (here(), error))
    except KeyboardInterrupt:
        sys.exit(130)


def load(root, unpacked):
    """The program's main function."""
    try:
        return __import__(ENTRY_POINT, None, None, ["main"]).main
    except (ImportError, SyntaxError) as error:
        wrong = str(error)
    if "failed to map segment" in wrong:
        fail(
            "cannot load compiled modules from %s (mounted noexec?): %s; "
            "set SHIV_ROOT to a directory that programs may run from" % (root, wrong)
        )
    if AGAIN in os.environ:
        fail("the copy in %s does not start: %s; remove it, or set SHIV_ROOT elsewhere" % (unpacked, wrong))
    # Somebody has tidied up in there (a cleaner of temporary files, say): once more, afresh.
    os.environ[AGAIN] = os.environ["SHIV_FORCE_EXTRACT"] = "1"
    os.execv(sys.executable, [sys.executable] + sys.orig_argv[1:])


def run():
    check_interpreter()
    keep_out_strangers()
    root, unpacked = cache()
    site_packages = os.path.join(unpacked, "site-packages")
    if "SHIV_FORCE_EXTRACT" in os.environ or not os.path.isdir(site_packages):
        unpack(root, unpacked)
        os.environ.pop("SHIV_FORCE_EXTRACT", None)
    if any(name.startswith("SHIV_") and name != "SHIV_ROOT" for name in os.environ):
        # Somebody uses shiv's own switches: SHIV_INTERPRETER, SHIV_ENTRY_POINT and so on.
        import _bootstrap

        _bootstrap.bootstrap()
    sys.path.insert(1, site_packages)
    main = load(root, unpacked)
    os.environ.pop(AGAIN, None)
    sys.exit(main())


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # A KeyboardInterrupt in the middle of an import may come out as any other error. Until the server, or a
        # command, has its own way with the signal, it ends the process as it ends any other.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)
