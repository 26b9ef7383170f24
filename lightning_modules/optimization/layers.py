"""The layer that each parameter belongs to, counted from the embeddings."""

from torch import nn

from lightrail.project.basics.errors import ConfigError


def layer_numbers(module: nn.Module) -> dict[str, int]:
    """Number each parameter by its layer: 0 in the embeddings, 1 to n from there upwards, n + 1 in the head.

    The layers are the elements of a stack's lists of blocks, whatever these are called. `module.encoder` is a stack, or
    `module.decoder`, or the whole where there is neither. Where a part has both, each is a stack of its own; the upper
    ends of the two have the same number, and the embeddings of the lower stack count on from its lowest layer. What is
    registered before the layers counts as embeddings, and what comes after them as head.

    Raises: ConfigError when there are no layers.
    """
    stacks = {prefix: [f"{prefix}{name}." for name in _blocks(root)] for prefix, root in _stacks(module).items()}
    head = max(map(len, stacks.values())) + 1
    if not all(stacks.values()):
        prefix = next(prefix for prefix, layers in stacks.items() if not layers)
        root = module.get_submodule(prefix.removesuffix("."))
        raise ConfigError(
            f"{type(root).__name__} has no blocks one above the other, which model.optim.layer_decay and "
            f"unfreeze_fraction tell apart. Leave these out, or choose another {prefix.removesuffix('.') or 'network'}."
        )
    tables = {name for name, part in module.named_modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)}
    numbers, last = {}, dict.fromkeys(stacks, 0)
    for name, _ in module.named_parameters():
        own_stack = next((own for own in stacks if name.startswith(own)), None)
        is_table = name.rpartition(".")[0] in tables
        if own_stack is None:
            numbers[name] = 0 if is_table and len(stacks) > 1 else head  # a table that both stacks share
            continue
        layers = stacks[own_stack]
        lowest = head - 1 - len(layers)  # the number of this stack's embeddings
        found = next((number for number, layer in enumerate(layers, 1) if name.startswith(layer)), None)
        if found is None and is_table:
            numbers[name] = lowest  # such as relative positions, which some encoders register last
        elif found is None and last[own_stack] == len(layers):
            numbers[name] = head
        else:
            last[own_stack] = last[own_stack] if found is None else found
            numbers[name] = lowest + last[own_stack]
    return numbers


def _stacks(module: nn.Module) -> dict[str, nn.Module]:
    """The parts that hold layers, by the beginning of their parameters' names."""
    for name, part in module.named_modules():
        own = dict(part.named_children())
        if "encoder" in own and "decoder" in own:
            prefix = f"{name}." if name else ""
            return {f"{prefix}{stack}.": own[stack] for stack in ("encoder", "decoder")}
    parts = dict(module.named_children())
    return next(({f"{name}.": parts[name]} for name in ("encoder", "decoder") if name in parts), {"": module})


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
