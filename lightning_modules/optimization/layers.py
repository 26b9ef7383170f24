"""How deep in a network each parameter lies."""

from torch import nn

from lightrail.project.basics.errors import ConfigError


def layer_numbers(module: nn.Module) -> dict[str, int]:
    """Number each parameter by its layer: 0 in the embeddings, 1 to n from there upwards, n + 1 in the head.

    The layers are the elements of the encoder's lists of blocks, whatever these are called; the encoder is
    `module.encoder` or `module.decoder`, or the whole where there is neither. What is registered before the layers
    counts as embeddings, and what comes after them as head.

    Raises: ConfigError when there are no layers.
    """
    parts = dict(module.named_children())
    own = next((name for name in ("encoder", "decoder") if name in parts), None)
    root, prefix = (module, "") if own is None else (parts[own], f"{own}.")
    layers = [f"{prefix}{name}." for name in _blocks(root)]
    if not layers:
        raise ConfigError(
            f"{type(root).__name__} has no blocks one above the other, which model.optim.layer_decay and "
            f"unfreeze_fraction tell apart. Leave these out, or choose another {own or 'network'}."
        )
    tables = {name for name, part in module.named_modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)}
    numbers, last = {}, 0
    for name, _ in module.named_parameters():
        found = next((number for number, layer in enumerate(layers, 1) if name.startswith(layer)), None)
        if not name.startswith(prefix) or (found is None and last == len(layers)):
            numbers[name] = len(layers) + 1
        else:
            numbers[name] = last = last if found is None else found
        if found is None and name.startswith(prefix) and name.rpartition(".")[0] in tables:
            numbers[name] = 0  # as of relative positions, which some encoders register last
    return numbers


def _blocks(root: nn.Module) -> list[str]:
    """Names of the elements of the outermost lists of blocks, in order.

    Tables and convolutions are no blocks: lists of these stand side by side, not one above the other.
    """
    found: list[str] = []
    for name, part in root.named_modules():
        is_inside = any(name.startswith(f"{block}.") or name == block for block in found)
        if not is_inside and isinstance(part, nn.ModuleList) and all(any(block.children()) for block in part):
            found += [f"{name}.{number}" if name else f"{number}" for number in range(len(part))]
    return found
