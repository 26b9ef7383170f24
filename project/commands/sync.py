"""`lightrail sync`: sends data pending on this machine to a store that was unreachable.

`lightrail clean`: tells what the kept bytes are for, and removes those that no command could need.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightrail.project.basics.errors import without_password
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.basics.tables import aligned
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri

if TYPE_CHECKING:
    from lightrail.project.cleaning.runs import Kept


def run(arguments: list[str]) -> int:
    """Send pending data. Returns: 1 when the store refused some of it, else 0. Raises: ConfigError without a store."""
    uri = store_uri(TrackingConfig(uri=OptionParser("sync").read(arguments).uri))
    from lightrail.project.tracking.recovery import count_elsewhere, synchronize

    done = synchronize(open_store(uri, create=False), uri)
    for item in done:
        print(item)
    if not done:
        print(f"nothing is pending for {without_password(uri)}")
    for store, number in count_elsewhere(uri).items():
        print(f"{number} {'run is' if number == 1 else 'runs are'} pending for another store: --tracking.uri {store}")
    return int(any(item.problem for item in done))


MOST_ROWS = 40


def clean(arguments: list[str]) -> int:
    """Print what the kept bytes are for; remove those that no command could need with `--yes`, or when told so.

    Raises: ConfigError without a store.
    """
    parser = OptionParser("clean")
    parser.add_argument("--yes", action="store_true")
    parser.add_argument("--dry_run", action="store_true")
    options = parser.read(arguments)
    uri = store_uri(TrackingConfig(uri=options.uri))
    from lightrail.project.cleaning.caches import kept_of_caches
    from lightrail.project.cleaning.runs import every_run, is_deleted, kept_of_store
    from lightrail.project.tracking.recovery import close_dead_runs

    client = open_store(uri, create=False)
    close_dead_runs(client)
    runs = every_run(client, uri)
    digests = {run.data.tags.get("lightrail.data_digest") for run in runs if not is_deleted(run)}
    kept = [*kept_of_store(client, uri, runs), *kept_of_caches(digests)]
    removable = [own for own in kept if own.remove is not None]
    print(f"{without_password(uri)}\n{_table(kept)}")
    if removable and not options.dry_run and (options.yes or _is_confirmed()):
        print(f"removed {_megabytes([own for own in removable if own.remove is not None and own.remove()])}")
    elif removable:
        print("nothing was removed; lightrail clean --yes removes what is marked")
    return 0


def _table(kept: "Sequence[Kept]") -> str:
    """Format what is kept, what can be removed first, the largest first."""
    ordered = sorted(kept, key=lambda own: (own.remove is None, -own.num_bytes))
    shown = ordered[: max(MOST_ROWS, sum(own.remove is not None for own in kept))]
    rows = [("", "MB", "what", "for")]
    rows += [("remove" if own.remove else "", f"{own.num_bytes / 1e6:.1f}", own.place, own.purpose) for own in shown]
    if rest := ordered[len(shown) :]:
        rows.append(("", f"{sum(own.num_bytes for own in rest) / 1e6:.1f}", f"{len(rest)} more", "smaller than these"))
    total = f"{_megabytes(kept)} kept, of which no command needs {_megabytes([own for own in kept if own.remove])}"
    return "\n".join([*aligned(rows, right=(1,)), total])


def _megabytes(kept: "Sequence[Kept]") -> str:
    return f"{sum(own.num_bytes for own in kept) / 1e6:.1f} MB"


def _is_confirmed() -> bool:
    """Ask on a terminal whether to remove; False without one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input("Remove what is marked? [y/N] ").strip().lower() in ("y", "yes")
