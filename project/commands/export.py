"""`lightrail export`: the best weights of a run as a folder for other programs."""

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.basics.reading import user_path

FORMATS = ("safetensors", "hf")


def run(arguments: list[str]) -> int:
    """Export the best weights of a run. Raises: ConfigError for a model or a folder that cannot be used."""
    options = _parser().read(arguments)
    if len(options.run) != 1:
        raise ConfigError(
            f"lightrail export takes one run, found {len(options.run)}: lightrail export RUN_ID --output DIR."
        )
    if options.output is None:
        raise ConfigError("--output is required: the folder to write the model to.")
    from lightrail.project.configuration.classes import AllowedClasses
    from lightrail.project.exporting.card import estimates_of
    from lightrail.project.exporting.writing import check_target, export
    from lightrail.project.models.stored_model import stored_model
    from lightrail.project.tracking.settings import TrackingConfig

    target = user_path(options.output)
    check_target(target, overwrite=options.overwrite)
    AllowedClasses(options.allow_modules.split(","))
    tracking = TrackingConfig(uri=options.uri)
    model = stored_model(options.run[0], tracking)
    estimates = estimates_of(model, tracking)
    export(model, target, options.format, overwrite=options.overwrite, estimates=estimates)
    print(f"exported {options.run[0]} to {target}; README.md there shows how to load it")
    return 0


def _parser() -> OptionParser:
    parser = OptionParser("export")
    parser.add_argument("run", nargs="*")
    parser.add_argument("--format", choices=FORMATS, default="safetensors")
    parser.add_argument("--output")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--allow_modules", default="")
    return parser
