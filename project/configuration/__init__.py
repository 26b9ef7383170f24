from lightrail.project.configuration.configuration import Configuration, parse

__all__ = ["Configuration", "parse"]
