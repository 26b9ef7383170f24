"""Making MLflow's SQLite database whole or not at all."""

from pathlib import Path

from lightrail.project.basics.durable import UNFINISHED, put_in_place


def make_database(file: Path) -> None:
    """Make MLflow's tables in a file beside, and give it its name when they are all there.

    MLflow makes some sixty tables one after the other, in seconds, and can never again open a file in which a process
    that was killed had made only some of them.
    """
    from mlflow import MlflowClient

    unfinished = file.with_name(file.name + UNFINISHED)
    for left in file.parent.glob(f"{unfinished.name}*"):  # of a process that was killed here
        left.unlink()
    store = MlflowClient(f"sqlite:///{unfinished}")._tracking_client.store
    store.engine.dispose()  # closes the file, whose name is about to change
    put_in_place(unfinished, file)
