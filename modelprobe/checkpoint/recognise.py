"""The kind of a file, by its content and never by its name; files that hold no weights are refused with a hint.

To add a format, follow the recipe in `modelprobe guide architecture`. One that is only named is a row in
`NOT_WEIGHTS` with its hint.
"""

from __future__ import annotations

from enum import Enum

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.bytes.zip import AGAIN, ZipDirectory
from modelprobe.checkpoint.file_names import READ_SUFFIXES
from modelprobe.checkpoint.formats.torch_zip import root_of
from modelprobe.errors import BadInput


class Kind(str, Enum):
    """The kinds that are read."""

    TORCH_ZIP = "torch zip"
    TORCHSCRIPT = "TorchScript"
    EXPORTED = "torch.export"
    NPZ = "npz"
    NPY = "npy"
    ZIP = "zip"  # still to be told apart by its members
    PICKLE = "pickle"  # and torch's legacy format
    SAFETENSORS = "safetensors"
    GGUF = "GGUF"
    ONNX = "ONNX"
    JSON = "JSON"  # the index of a sharded checkpoint, or an error page


OURS = "convert it first: modelprobe reads PyTorch, safetensors, GGUF, ONNX and numpy files"
UNPACK = "unpack it first"
STARTS: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"PK\3\4", Kind.ZIP),
    (0, b"\x93NUMPY", Kind.NPY),
    (0, b"GGUF", Kind.GGUF),
    (0, b"FUGG", Kind.GGUF),
)
NOT_WEIGHTS: tuple[tuple[int, bytes, str, str], ...] = (
    (
        *(0, b"version https://git-lfs", "is a Git LFS pointer: the weights themselves were not downloaded"),
        "run `git lfs pull`, or download the file itself",
    ),
    (0, b"PK\5\6", "is a zip archive without members", AGAIN),
    (0, b"PK\3", "is a truncated zip", AGAIN),
    (0, b"\x89HDF\r\n\x1a\n", "is an HDF5 file (Keras, or a MATLAB export)", OURS),
    (0, b"\x1f\x8b", "is compressed with gzip", "unpack it with `gunzip`, then try again"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive", UNPACK),
    (0, b"\xfd7zXZ\0", "is compressed with xz", "unpack it with `unxz`, then try again"),
    (0, b"BZh", "is compressed with bzip2", "unpack it with `bunzip2`, then try again"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed with zstd", "unpack it with `unzstd`, then try again"),
    (0, b"Rar!", "is a RAR archive", UNPACK),
    (257, b"ustar", "is a tar archive", "unpack it with `tar xf`, then name the weight file inside"),
    (4, b"TFL3", "is a TensorFlow Lite model", OURS),
    (4, b"ET12", "is an ExecuTorch program", OURS),
    (4, b"ET13", "is an ExecuTorch program", OURS),
    (0, b"\x89PNG", "is an image", ""),
    (0, b"\xff\xd8\xff", "is an image", ""),
    (0, b"%PDF", "is a PDF document", ""),
    (0, b"\x7fELF", "is a program or library", ""),
    (0, b"PAR1", "is a Parquet file", ""),
)
TORCH_TAR = (b"sys_info", b"pickle", b"storages", b"tensors")
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")


def recognise(source: ByteSource) -> Kind:
    """The kind of a file. Raises BadInput with the fix for everything that is no weight file."""
    head = source.read(0, 4096)
    if not head:
        raise BadInput(f"{source.name} is an empty file", "download it again")
    for at, magic, kind in STARTS:
        if head[at : at + len(magic)] == magic:
            return kind
    if (head[257:262] == b"ustar" or _is_tar(head)) and head.partition(b"\0")[0] in TORCH_TAR:
        raise BadInput(f"{source.name} is in torch's tar format of 2016", "load and save it again with torch below 1.6")
    for at, magic, what, hint in NOT_WEIGHTS:
        if head[at : at + len(magic)] == magic:
            raise BadInput(f"{source.name} {what}", hint)
    return _other(source, head)


def _other(source: ByteSource, head: bytes) -> Kind:
    """The kinds without a magic number."""
    if head[8:9] == b"{" or (0 < int.from_bytes(head[:8], "little") < 1 << 40 and head[8:24].lstrip()[:1] == b"{"):
        return Kind.SAFETENSORS
    text = head.lstrip().lower()
    if text.startswith(PAGES):
        raise BadInput(f"{source.name} is a web page: the server answered with a page instead of the file",
                       "open the link in a browser: it may ask for a login, or for a confirmation")  # fmt: skip
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        if head[:4096].count(b"\x80\x02") and b"_paddle" in head:
            raise BadInput(f"{source.name} is a PaddlePaddle file", OURS)
        return Kind.PICKLE
    if text[:1] in (b"{", b"[") and text[1:2] in (b'"', b"{", b"}", b"]", b"\n", b"\r", b" ", b"["):
        return Kind.JSON
    if head[:4] in (b"\4\0\0\0", b"\3\0\0\0") and source.size > 16 and b"torch." in head and b"V 1" in head:
        raise BadInput(f"{source.name} is a Torch7 file", OURS)
    if _is_onnx(source):
        return Kind.ONNX
    if head[0] in b"(]}cI" and b"." in head:
        return Kind.PICKLE
    if _is_tar(head):
        raise BadInput(f"{source.name} is a tar archive", "unpack it with `tar xf`, then name the weight file inside")
    if not head.strip(b"\0"):
        raise BadInput(f"{source.name} begins with zeros only: the download did not finish", "download it again")
    if _is_text(head):
        raise BadInput(f"{source.name} is a text file, not a weight file", "download the file itself")
    if head.startswith(b"modelprobe"):
        raise BadInput(
            f"{source.name} is a recorded run, which has no weights and cannot be run",
            "flops, summary, training, memory, graph, trace, compare and profile --predict answer from such a file",
        )
    raise BadInput(f"{source.name} has an unknown format: it begins with {head[:8].hex(' ')}", OURS)


def zip_kind(archive: ZipDirectory) -> tuple[Kind, str]:
    """What a zip archive is, and the folder its members stand in."""
    names = archive.members
    if not names:
        raise BadInput(f"{archive.source.name} is a zip archive without members", AGAIN)
    root = root_of(archive)
    top = f"{root}/" if root else ""
    if f"{top}archive_format" in names or "serialized_exported_program.json" in names:
        return Kind.EXPORTED, root if f"{top}archive_format" in names else ""
    if f"{root}/data.pkl" in names and root:
        script = f"{root}/constants.pkl" in names or any(name.startswith(f"{root}/code/") for name in names)
        return (Kind.TORCHSCRIPT if script else Kind.TORCH_ZIP), root
    if all(name.endswith(".npy") for name in names):
        return Kind.NPZ, ""
    raise _foreign_zip(archive, root)


def _foreign_zip(archive: ZipDirectory, root: str) -> BadInput:
    names, who = archive.members, archive.source.name
    if any(name.endswith(".data/extern_modules") for name in names):
        return BadInput(
            f"{who} is a torch.package archive: it holds code, which is not read", "load it only if you trust it"
        )
    if "MAR-INF/MANIFEST.json" in names:
        return BadInput(f"{who} is a TorchServe archive (.mar)", "unpack it and name the weight file inside")
    if f"{root}/model.json" in names:
        return BadInput(f"{who} is a TorchScript archive of torch 1.0", "load and save it again with a newer torch")
    if "[Content_Types].xml" in names:
        return BadInput(f"{who} is an Office document")
    elsewhere = next((name for name in names if name.endswith("/data.pkl") or name == "data.pkl"), None)
    if elsewhere:
        return BadInput(
            f"{who} is a zip whose data.pkl is not where torch looks: {elsewhere}, beside {next(iter(names))}",
            "it was packed again by another program; torch does not read it either",
        )
    weights = [name for name in names if name.endswith(READ_SUFFIXES)]
    inside = f"unpack it and name {weights[0]}" if weights else "this is another kind of zip archive"
    return BadInput(f"{who} is a zip without data.pkl, so no weight file", inside)


def _is_onnx(source: ByteSource) -> bool:
    from modelprobe.checkpoint.formats.onnx import looks_like_onnx  # late: it is asked of odd files only

    return looks_like_onnx(source)


def _is_tar(head: bytes) -> bool:
    """Old tar headers have no magic: their checksum tells."""
    if len(head) < 512 or not head[148:154].strip(b" \0").isdigit():
        return False
    try:
        wanted = int(head[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return wanted == sum(head[:148]) + 8 * 32 + sum(head[156:512])


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)
