"""Reconstructs the manifest of a recording whose bytes are in the bucket (runbook, Path C)."""

from __future__ import annotations

import argparse

from ursa_pipelines import DataInterface, UrsaError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", help="local, r2 or r2-test")
    parser.add_argument("--config", help="a YAML profile, or fields that go before those of --profile")
    parser.add_argument("--rec-id", required=True)
    parser.add_argument("--yes", action="store_true", help="really store it")
    args = parser.parse_args()
    if not args.yes:
        parser.error(f"this stores a manifest.json for {args.rec_id} in the raw bucket; add --yes")
    try:
        data = DataInterface(args.profile, config_path=args.config)
        data.enable_writes(roles=("raw_rw",))
        manifest = data.reconstruct_manifest(args.rec_id)
    except UrsaError as error:
        parser.exit(1, f"{error}\n")
    if manifest is None:
        print(f"{args.rec_id}: it has a usable manifest; nothing was written")
    else:
        print(f"{args.rec_id}: stored manifest.json with {len(manifest.files)} files, hash {manifest.recording_hash}")


if __name__ == "__main__":
    main()
