"""Descriptors and subset headers in memory: from fields to bytes and back, and what is illegal."""

from golden.stream import pack_fields
from hdl.accelerator_config import OPCODES
from hdl.control.register_map import ErrorCode

__all__ = ["descriptor_bytes", "descriptor_fault", "unpack_fields"]

_OPERATIONS = {code: name for name, code in OPCODES.items()}


def unpack_fields(word, fields):
    """Field name -> value of the integer ``word``, first field in the low bits."""
    values, position = {}, 0
    for name, width in fields:
        values[name] = word >> position & (1 << width) - 1
        position += width
    return values


def descriptor_bytes(operation, values, config):
    """A descriptor in memory.

    Parameters
    ----------
    operation : a key of :data:`~hdl.accelerator_config.OPCODES`. ``values`` : field name -> integer; fields that are
        missing are zero.

    Raises
    ------
    ValueError : a value does not fit its field, or there is no such field.
    """
    fields = config.descriptor_fields[operation]
    unknown = values.keys() - dict(fields).keys()
    if unknown:
        raise ValueError(f"a {operation} has no field {sorted(unknown)[0]!r}")
    values = {**dict.fromkeys((name for name, _ in fields), 0), **values, "opcode": OPCODES[operation]}
    return pack_fields(values, fields).to_bytes(config.descriptor_bytes, "little")


def descriptor_fault(data, config):
    """What the dispatcher finds of a descriptor.

    Parameters
    ----------
    data : its bytes. ``config`` : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Returns
    -------
    (operation, values, code) : ``code`` is an :class:`~hdl.control.register_map.ErrorCode`; ``operation`` is None for
    an unknown opcode. Of several errors the first of OUT_OF_RANGE_L1, MISALIGNED and ILLEGAL_FIELD is reported.
    """
    word = int.from_bytes(data, "little")
    values = unpack_fields(word, config.header_fields)
    operation = _OPERATIONS.get(values["opcode"])
    if operation is None:
        return None, values, ErrorCode.UNKNOWN_OPCODE
    values = unpack_fields(word, config.descriptor_fields[operation])
    if operation == "end":
        return operation, values, ErrorCode.NONE
    check = _transfer_faults if operation in ("load", "store") else _compute_faults
    faults = check(operation, values, config)
    for code in (ErrorCode.OUT_OF_RANGE_L1, ErrorCode.MISALIGNED, ErrorCode.ILLEGAL_FIELD):
        if code in faults:
            return operation, values, code
    return operation, values, ErrorCode.NONE


def _transfer_faults(operation, values, config):
    faults = set()
    if not (values["chunks"] and values["chunk_words"] and 0 < values["word_beats"] <= config.word_beats):
        faults.add(ErrorCode.ILLEGAL_FIELD)
    if (values["memory_address"] | values["memory_stride"]) % config.bus_bytes:
        faults.add(ErrorCode.MISALIGNED)
    last = values["l1_address"] + max(0, values["chunks"] - 1) * values["l1_stride"] + values["chunk_words"]
    if values["l1_address"] >= config.l1_words or last > config.l1_words:
        faults.add(ErrorCode.OUT_OF_RANGE_L1)
    return faults


def _compute_faults(operation, values, config):
    faults = set()
    counts = ["ofmap_rows", "ofmap_columns", "ofmap_groups", "pixels", "stride_y", "stride_x"]
    counts += ["kernel_rows", "kernel_columns"] if operation == "vector" else ["weight_words"]
    if not all(values[name] for name in counts) or not 0 < values["last_columns"] <= config.vector_bytes:
        faults.add(ErrorCode.ILLEGAL_FIELD)
    if values["pixels"] != values["ofmap_rows"] * values["ofmap_columns"]:
        faults.add(ErrorCode.ILLEGAL_FIELD)
    if operation == "conv" and values["weights_address"] % config.bus_bytes:
        faults.add(ErrorCode.MISALIGNED)
    tensors = [("ofmap", values["pixels"] * (4 if values["raw"] else 1), values["ofmap_groups"])]
    image = values["ifmap_rows"] * values["ifmap_columns"]
    # The groups that a convolution reads are known from its subset headers only.
    tensors.append(("ifmap", image, values["ofmap_groups"] if operation == "vector" else 1))
    if values["residual"]:
        tensors.append(("residual", values["pixels"], values["ofmap_groups"]))
    for name, vectors, groups in tensors:
        address = values[f"{name}_address"]
        end = address + max(0, groups - 1) * values[f"{name}_plane"] + vectors
        if address >= config.l1_vectors or end > config.l1_vectors:
            faults.add(ErrorCode.OUT_OF_RANGE_L1)
    return faults
