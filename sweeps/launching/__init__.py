from lightrail.sweeps.launching.launching import launch

__all__ = ["launch"]
