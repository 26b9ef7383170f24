"""`lightrail sync`: sends what waits on this machine for a store that was away."""

from lightrail.project.basics.errors import without_password
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri


def run(arguments: list[str]) -> int:
    uri = store_uri(TrackingConfig(uri=OptionParser("sync").read(arguments).uri))
    from lightrail.project.tracking.recovery import count_elsewhere, synchronize

    done = synchronize(open_store(uri, create=False), uri)
    for item in done:
        print(item)
    if not done:
        print(f"nothing waits for {without_password(uri)}")
    for store, number in count_elsewhere(uri).items():
        print(f"{number} {'run waits' if number == 1 else 'runs wait'} for another: --tracking.uri {store}")
    return int(any(item.problem for item in done))
