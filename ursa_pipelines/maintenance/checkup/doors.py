"""The ways into a profile's store, one for each role, opened only to look."""

from __future__ import annotations

from functools import partial

from ursa_pipelines.objects.store import Bucket, Endpoint
from ursa_pipelines.profiles import CredentialSource, Profile, Role

_OP_SECONDS = 30.0


class Doors:
    """A profile's buckets by role. Credentials are fetched on first use and stay in memory.

    `skew` is by how many seconds the store's clock is ahead of this machine's, once somebody has looked.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.credentials = CredentialSource(profile, _OP_SECONDS)
        self.skew: float | None = None
        self._buckets: dict[Role, Bucket] = {}

    @property
    def is_endpoint_secret(self) -> bool:
        """Whether the endpoint's URL is kept in 1Password, and is thus not to be shown."""
        return (self.profile.endpoint or "").startswith("op://")

    def bucket(self, role: Role) -> Bucket:
        """The bucket of a role. Raises what fetching the endpoint raises."""
        if role not in self._buckets:
            buckets = self.profile.buckets
            name = buckets.raw if role.startswith("raw") else buckets.assets
            endpoint = Endpoint(self.credentials.endpoint(), self.profile.region, partial(self._secret, role))
            self._buckets[role] = Bucket(name, endpoint)
        return self._buckets[role]

    def close(self) -> None:
        for bucket in self._buckets.values():
            bucket.close()

    def _secret(self, role: Role) -> tuple[str, str, str | None]:
        credential = self.credentials.credential(role)
        return credential.access_key_id, credential.secret_access_key, credential.session_token
