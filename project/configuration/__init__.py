from lightrail.project.configuration.configuration import Configuration, completed, parse

__all__ = ["Configuration", "completed", "parse"]
