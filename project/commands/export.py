"""`lightrail export`: the best weights of a run as a folder for other programs."""

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.basics.reading import user_path

FORMATS = ("safetensors", "hf", "onnx")


def run(arguments: list[str]) -> int:
    """Export the best weights of a run. Raises: ConfigError for a model or a folder that cannot be used."""
    options = _parser().read(arguments)
    if len(options.run) != 1:
        raise ConfigError(
            f"lightrail export takes one run, found {len(options.run)}: lightrail export RUN_ID --output DIR."
        )
    if options.output is None:
        raise ConfigError("--output is required: the folder to write the model to.")
    if options.public and not options.push:
        raise ConfigError("--public is for --push OWNER/NAME. Leave it out, or name the repository.")
    if options.quantize and options.format != "onnx":
        raise ConfigError(f"--quantize is for --format onnx, and --format is {options.format}. Leave it out.")
    from lightrail.project.configuration.classes import AllowedClasses
    from lightrail.project.exporting.card import estimates_of
    from lightrail.project.exporting.hub import check_repository, push
    from lightrail.project.exporting.writing import check_target, export
    from lightrail.project.models.stored_model import stored_model
    from lightrail.project.tracking.settings import TrackingConfig

    target = user_path(options.output)
    check_target(target, overwrite=options.overwrite)
    if options.push:
        check_repository(options.push)
    AllowedClasses(options.allow_modules.split(","))
    tracking = TrackingConfig(uri=options.uri)
    model = stored_model(options.run[0], tracking)
    estimates = estimates_of(model, tracking)
    quantize = options.quantize == "int8"
    export(
        model,
        target,
        options.format,
        overwrite=options.overwrite,
        quantize=quantize,
        repository=options.push,
        estimates=estimates,
    )
    print(f"exported {options.run[0]} to {target}; README.md there shows how to load it")
    if options.push:
        print(f"pushed to {push(target, options.push, is_private=not options.public)}")
    return 0


def _parser() -> OptionParser:
    parser = OptionParser("export")
    parser.add_argument("run", nargs="*")
    parser.add_argument("--format", choices=FORMATS, default="safetensors")
    parser.add_argument("--quantize", choices=("int8",))
    parser.add_argument("--output")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--push")
    parser.add_argument("--public", action="store_true")
    parser.add_argument("--allow_modules", default="")
    return parser
