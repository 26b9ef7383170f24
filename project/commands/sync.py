"""`lightrail sync`: sends data pending on this machine to a store that was unreachable."""

from lightrail.project.basics.errors import without_password
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri


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
