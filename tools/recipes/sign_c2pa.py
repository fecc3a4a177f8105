"""Sign a picture with C2PA content credentials, read them back, and lose them by re-encoding.

    pip install c2pa-python cryptography
    python tools/recipes/sign_c2pa.py [FOLDER]
        to FOLDER (c2pa): signed.png, changed.png (signed, then a pixel's byte changed) and
        saved_again.png (opened and saved by Pillow); prints what a reader finds in each

Needs these two packages beside the course's; no network. The certificate is made on the spot by an
authority that nobody trusts, so the reader calls it "signingCredential.untrusted". A real one comes
from an authority on the C2PA trust list.
(Coalition for Content Provenance and Authenticity, technical specification)
"""
import datetime
import json
import sys
from pathlib import Path

import c2pa
import numpy as np
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from course_lib.lab import sampling, train

MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
MANIFEST = {
    "claim_generator_info": [{"name": "course_lib", "version": "0.1"}],
    "title": "a digit",
    "assertions": [{
        "label": "c2pa.actions.v2",
        "data": {"actions": [{
            "action": "c2pa.created",
            "digitalSourceType": MADE_BY_A_MODEL,
            "softwareAgent": {"name": "mnist_small"},
        }]},
    }],
}


def name(text: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "course_lib, for tests only"),
        x509.NameAttribute(NameOID.COMMON_NAME, text),
    ])


def certificate(subject: str, key, issuer: str, issuer_key, authority: bool) -> x509.Certificate:
    """An X.509 certificate for a day, of an authority or of a signer, as C2PA asks for it."""
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    usage = dict.fromkeys((
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    ), False)
    usage["key_cert_sign" if authority else "digital_signature"] = True
    made = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
        )
    )
    if not authority:
        mail = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        made = made.add_extension(mail, critical=False)
    return made.sign(issuer_key, hashes.SHA256())


def make_signer() -> c2pa.Signer:
    """A signer with a new key and its chain of two certificates."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = certificate("root", root_key, "root", root_key, True)
    leaf = certificate("signer", key, "root", root_key, False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = leaf.public_bytes(pem) + root.public_bytes(pem)
    return c2pa.Signer.from_info(
        c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, chain, private, None)
    )


def found_in(file: Path) -> str:
    """One line: what a reader of content credentials finds."""
    reader = c2pa.Reader.try_create(file)
    if reader is None:
        return "no manifest"
    with reader:
        store = json.loads(reader.json())
    manifest = store["manifests"][store["active_manifest"]]
    actions = [a for a in manifest["assertions"] if a["label"].startswith("c2pa.actions")]
    source = actions[0]["data"]["actions"][0]["digitalSourceType"].rsplit("/", 1)[1]
    problems = [problem["code"] for problem in store.get("validation_status", [])]
    return f"{source}; {store['validation_state']}; {', '.join(problems) or 'no complaint'}"


def change_a_byte(file: Path, to: Path) -> None:
    """The signed file with one byte of its compressed pixels changed."""
    content = bytearray(file.read_bytes())
    content[content.index(b"IDAT") + 40] ^= 1
    to.write_bytes(content)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "c2pa")
    folder.mkdir(parents=True, exist_ok=True)
    D = train.load("mnist_small", "cpu")
    x = sampling.sample_labels(D, sampling.SAMPLERS["dpmpp"], 10, torch.tensor([7]), 2.0)[0]
    pixels = ((x[0, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    plain, signed = folder / "plain.png", folder / "signed.png"
    Image.fromarray(np.kron(pixels, np.ones((8, 8), np.uint8))).save(plain)
    signed.unlink(missing_ok=True)
    with c2pa.Builder(MANIFEST) as builder, make_signer() as signer:
        builder.sign_file(plain, signed, signer)
    change_a_byte(signed, folder / "changed.png")
    Image.open(signed).save(folder / "saved_again.png")
    for file in ("plain", "signed", "changed", "saved_again"):
        path = folder / f"{file}.png"
        print(f"{path.name:16} {path.stat().st_size:6} bytes  {found_in(path)}")
    same = np.array_equal(Image.open(signed), Image.open(folder / "saved_again.png"))
    print("signed.png and saved_again.png have the same pixels:", same)


if __name__ == "__main__":
    main()
