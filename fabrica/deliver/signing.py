"""The key of a folder, and what it has signed (Ed25519; the extra `clinic`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .files import write_whole

KEY, PUBLIC = "ledger.key", "ledger.pub"
EXTRA = 'Install what signs: pip install -e ".[clinic]" -c constraints.txt'


def signed(folder: Path, words: bytes, begun: bool) -> str:
    """Hexadecimal signature by the key of a folder: made at first, readable by its owner alone. `begun`: whether
    something was signed before, so that the public key is not made anew. Raises ValueError where the library is
    missing.
    """
    return str(_key(folder, begun).sign(words).hex())


def was_signed(folder: Path, words: bytes, signature: str) -> bool:
    """Whether the key of this folder signed these words; raises ValueError where its public half is gone."""
    try:
        from cryptography.exceptions import InvalidSignature
    except ImportError as error:
        raise ValueError(f"cryptography is not installed. {EXTRA}") from error
    public = _public(folder)
    try:
        public.verify(bytes.fromhex(signature), words)
    except (InvalidSignature, ValueError):
        return False
    return True


def _key(folder: Path, begun: bool) -> Any:
    """The private key of a folder; made where there is none."""
    try:
        from cryptography.hazmat.primitives import serialization as forms
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise ValueError(f"cryptography is not installed. {EXTRA}") from error
    path = folder / KEY
    if not path.is_file():
        made = Ed25519PrivateKey.generate()
        write_whole(path, made.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()))
    key: Any = forms.load_pem_private_key(path.read_bytes(), None)
    if not (folder / PUBLIC).is_file() and not begun:
        public = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
        write_whole(folder / PUBLIC, public)
    return key


def _public(folder: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    path = folder / PUBLIC
    if not path.is_file():
        raise ValueError(f"{path} is gone: nobody can say that what was signed here is its own.")
    return load_pem_public_key(path.read_bytes())
